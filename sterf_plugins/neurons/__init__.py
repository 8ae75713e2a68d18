"""Spiking activations: stateless integer spikes, and SpikingJelly's nodes behind a stateless interface."""

from .integer import IntegerSpike
from .node import StatelessNode, if_node, ilif_node, izhikevich_node, lif_node, plif_node

__all__ = [
    "IntegerSpike",
    "StatelessNode",
    "if_node",
    "ilif_node",
    "izhikevich_node",
    "lif_node",
    "plif_node",
]
