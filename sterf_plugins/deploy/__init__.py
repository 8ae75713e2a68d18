"""Trained models in other forms: norms folded into weights, and weights that see binary spikes only."""

from .reparameterize import reparameterize
from .spike_driven import SpikeDrivenLayer, to_spike_driven

__all__ = ["SpikeDrivenLayer", "reparameterize", "to_spike_driven"]
