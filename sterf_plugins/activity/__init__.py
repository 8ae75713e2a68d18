"""What spiking networks do: firing rates, synaptic operations, energy."""

from .operations import ENERGY, LayerOperations, Operations, count_operations
from .rates import FiringRates, LayerRate

__all__ = ["ENERGY", "FiringRates", "LayerOperations", "LayerRate", "Operations", "count_operations"]
