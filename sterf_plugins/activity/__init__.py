"""What spiking networks do: firing rates, dead and saturated neurons, synaptic operations, energy."""

from ..firing import FiringRates, LayerRate, silence
from .energy import LayerEnergy, bits, estimate_energy
from .maps import FiringMap, FiringMaps, draw_firing_maps
from .operations import ENERGY, LayerOperations, Operations, count_operations
from .spikes import NeuronOperations

__all__ = [
    "ENERGY",
    "FiringMap",
    "FiringMaps",
    "FiringRates",
    "LayerEnergy",
    "LayerOperations",
    "LayerRate",
    "NeuronOperations",
    "Operations",
    "bits",
    "count_operations",
    "draw_firing_maps",
    "estimate_energy",
    "silence",
]
