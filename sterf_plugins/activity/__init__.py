"""What spiking networks do: firing rates, synaptic operations, energy."""

from ..firing import FiringRates, LayerRate, silence
from .operations import ENERGY, LayerOperations, Operations, count_operations

__all__ = ["ENERGY", "FiringRates", "LayerOperations", "LayerRate", "Operations", "count_operations", "silence"]
