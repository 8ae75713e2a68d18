"""Necks and heads: a simple feature pyramid, and the spiking necks and heads of the papers."""

from .simple_fpn import SimpleFPN

__all__ = ["SimpleFPN"]
