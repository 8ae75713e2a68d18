"""Trained models in other forms: norms folded into weights, and weights that see binary spikes only."""

from .pack import pack_for_cpu
from .reparameterize import reparameterize
from .spike_driven import SpikeDrivenLayer, to_spike_driven

__all__ = ["SpikeDrivenLayer", "pack_for_cpu", "reparameterize", "to_spike_driven"]
