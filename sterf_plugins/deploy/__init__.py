"""Trained models in other forms: norms folded into weights, weights that see binary spikes only, graphs of NIR."""

from .nir_graph import to_nir
from .reparameterize import reparameterize
from .spike_driven import SpikeDrivenLayer, to_spike_driven

__all__ = ["SpikeDrivenLayer", "reparameterize", "to_nir", "to_spike_driven"]
