"""A channel mixer and a stem for the spiking backbones of sterf_plugins."""

from .mixers import MyMixer
from .stems import MyStem

__all__ = ["MyMixer", "MyStem"]
