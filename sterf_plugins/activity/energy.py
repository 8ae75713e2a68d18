"""Energy by three published models, of a spiking network and of the quantised network that does the same.

* ``compute``: multiply-accumulates and accumulations alone, 45 nm, 32-bit floating point (Horowitz, ISSCC 2014).
* ``memory``: these, and one access for each weight and bias that is used, and for each potential that is read and
  written; 3.12 pJ a bit, as in SpikingJelly's simple model.
* ``full``: Lemaire et al., arXiv:2210.13107: 32-bit integers, addresses, and memories of the size that each layer needs.

The costs are SpikingJelly's; the counts are those of ``operations``, since SpikingJelly's counters take integer spikes
for analog numbers, and layers see them only if they are modules of PyTorch's own types.

The quantised network has the same layers, runs once instead of for T steps, and its activations have
ceil(log2(T D + 1)) bits, so that it tells as many values apart as a neuron with D levels in T steps can send (Yan et
al., arXiv:2409.08290). Its weights are as wide as those of the spiking network, and none of its zeros are skipped.
A multiplier of b by 32 bits costs b / 32 of one of 32 by 32 bits: Horowitz's 0.2 pJ for 8 by 8 bits and 3.1 pJ for 32
by 32 bits are as 1 to 15.5.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from spikingjelly.activation_based.op_counter import LemaireEnergyConfig, LemaireEnergyCostConfig

from ..checks import one_of, positive_int
from .operations import ENERGY, LayerOperations, Operations
from .spikes import NeuronOperations

WORD = 4  # bytes of a number of 32 bits


@dataclass
class LayerEnergy:
    """Energy of a layer, or of a network, summed over all inputs.

    Attributes:
        spiking: pJ of the spiking layer.
        quantised: pJ of the quantised layer.
        break_even: the firing rate below which the spiking layer takes less, between 0 (never) and 1 (always); ``None``
            if no spikes drive it. A layer counts with one neuron at each of its outputs, which fires at the same rate.
    """

    spiking: float
    quantised: float
    break_even: float | None = None


def estimate_energy(operations: Operations, model: str = "full") -> dict[str, LayerEnergy]:
    """Energy of each layer and of each neuron layer by one of the models ``compute``, ``memory`` and ``full``.

    Args:
        operations: what ``count_operations`` found.
        model: the name of the energy model.

    Returns:
        Layer name -> energy. The entry "total" is their sum; its ``break_even`` is the mean firing rate of the network at
        which both take the same, if all firing rates change in proportion.

    Raises:
        ValueError: there is no such model.
    """
    one_of("model", model, MODELS)
    cost, n = MODELS[model], operations.num_inputs
    energies = {}
    for name, layer in operations.layers.items():
        energies[name] = LayerEnergy(cost.layer(layer, n), cost.quantised_layer(layer, n), _break_even(cost, layer, n))
    for name, neuron in operations.neurons.items():
        energy = energies.setdefault(name, LayerEnergy(0.0, 0.0))
        energy.spiking += cost.neuron(neuron, n)
        energy.quantised += cost.quantised_neuron(neuron, n)
    spiking, quantised = sum(e.spiking for e in energies.values()), sum(e.quantised for e in energies.values())
    silent = sum(cost.layer(replace(o, acs=0, spikes=0), n) for o in operations.layers.values())
    silent += sum(cost.neuron(replace(o, spikes=0), n) for o in operations.neurons.values())
    sent = sum(o.outputs * o.levels for o in operations.neurons.values())
    rate = sum(o.spikes for o in operations.neurons.values()) / sent if sent else 0.0
    break_even = _clipped(rate * (quantised - silent) / (spiking - silent)) if spiking > silent else None
    return energies | {"total": LayerEnergy(spiking, quantised, break_even)}


def bits(levels: int, steps: int) -> int:
    """Bits of an activation that tells apart as many values as a neuron sends in all steps: ceil(log2(T D + 1)).

    Args:
        levels: D, the most spikes that the neuron sends in one time step.
        steps: T, the number of time steps.

    Raises:
        TypeError, ValueError: one of them is not an int >= 1.
    """
    return (positive_int("levels", levels) * positive_int("steps", steps)).bit_length()


def _break_even(cost: "_Model", layer: LayerOperations, n: int) -> float | None:
    """The firing rate at which the layer, and a neuron at each output, takes as much as the quantised layer."""
    driven = layer.dense - layer.macs
    if not layer.levels or not driven:
        return None

    def energy(rate: int) -> float:
        acs, spikes, sent = (rate * layer.levels * m for m in (driven, layer.inputs, layer.outputs))
        return cost.layer(replace(layer, acs=acs, spikes=spikes), n) + cost.neuron(replace(neurons, spikes=sent), n)

    neurons = NeuronOperations(layer.outputs, 0, layer.levels, layer.steps)
    quantised = cost.quantised_layer(layer, n) + cost.quantised_neuron(neurons, n)
    return _clipped((quantised - energy(0)) / (energy(1) - energy(0)))


def _clipped(rate: float) -> float:
    return min(1.0, max(0.0, rate))


class _Model(ABC):
    """What layers and neurons cost in pJ, spiking and quantised; ``n`` is the number of inputs that were counted."""

    @abstractmethod
    def layer(self, o: LayerOperations, n: int) -> float:
        """The products of a layer as spikes and analog numbers drive them."""

    @abstractmethod
    def quantised_layer(self, o: LayerOperations, n: int) -> float:
        """The same products on numbers of a few bits, once."""

    @abstractmethod
    def neuron(self, o: NeuronOperations, n: int) -> float:
        """Neurons in all time steps; one with D levels takes D steps of a binary one, as in its spike-driven form."""

    @abstractmethod
    def quantised_neuron(self, o: NeuronOperations, n: int) -> float:
        """The activation in their place."""


class _Compute(_Model):
    """The multiplications and additions alone, at the 45 nm figures of the spiking papers; memory costs nothing."""

    def layer(self, o, n):
        return o.energy

    def quantised_layer(self, o, n):
        add, multiply = ENERGY.e_ac_pj, ENERGY.e_mac_pj - ENERGY.e_ac_pj
        return (o.macs * (multiply + add) + (o.dense - o.macs) * (multiply * _share(o) + add)) / o.steps

    def neuron(self, o, n):
        return 0.0

    def quantised_neuron(self, o, n):
        return 0.0


class _Memory(_Compute):
    """MACs, ACs, and accesses to a memory of one price: a weight for each of them, biases, and neurons' states."""

    word = WORD * ENERGY.e_memory_pj_per_byte

    def layer(self, o, n):
        return super().layer(o, n) + (o.macs + o.acs + o.biases) * self.word

    def quantised_layer(self, o, n):
        return super().quantised_layer(o, n) + (o.dense + o.biases) / o.steps * self.word

    def neuron(self, o, n):
        return 2 * o.outputs * o.levels * o.states * self.word  # each is read and written


class _Full(_Model):
    """Lemaire et al.: operations, addresses, and accesses to activations, weights and potentials by memory size.

    Every spike that arrives reads a weight, and reads and writes a potential, for each of its accumulations. A dense
    layer reads activation and weight for each MAC of a convolution, and each activation once in a matrix product; its
    sums stay in registers. Spikes wait in queues, all else lies in memories as large as a layer's numbers are for one
    input and one time step.
    """

    costs = LemaireEnergyCostConfig()
    queue = LemaireEnergyConfig().snn_fifo_capacity_elements

    def layer(self, o, n):
        analog = o.macs / o.dense
        adds = o.acs + o.biases + analog * self._dense_addresses(o, n) + o.acs  # the last ones are addresses, too
        macs = o.macs + (2 * o.spikes if o.kernel else 0)  # where the first output of a spike lies
        reads = o.macs if o.kernel else analog * o.inputs
        return (
            self._operations(macs, adds)
            + reads * self._word(o.inputs / (n * o.steps))
            + o.spikes * self._word(self.queue)
            + (o.macs + o.acs + o.biases) * self._word(self._weights(o))
            + 2 * o.acs * self._word(o.outputs / (n * o.steps))
        )

    def quantised_layer(self, o, n):
        analog = o.macs / o.dense
        share = analog + (1 - analog) * _share(o)  # of the 32 bits
        adds = (o.dense + o.biases + self._dense_addresses(o, n * o.steps)) / o.steps
        reads = (o.dense if o.kernel else o.inputs) / o.steps * share
        return (
            o.dense / o.steps * share * self.costs.e_mul_pj
            + adds * self.costs.e_add_pj
            + reads * self._word(o.inputs / (n * o.steps) * share)
            + (o.dense + o.biases) / o.steps * self._word(self._weights(o))
        )

    def neuron(self, o, n):
        potential = self._word(o.outputs * o.states / (n * o.steps))
        return (
            self._operations(o.outputs if o.leaks else 0, o.spikes)
            + 2 * o.outputs * o.levels * o.states * potential
            + o.spikes * self._word(self.queue)
        )

    def quantised_neuron(self, o, n):
        share = bits(o.levels, o.steps) / 32
        return o.outputs / o.steps * share * self._word(o.outputs / (n * o.steps) * share)

    def _operations(self, macs: float, adds: float) -> float:
        return macs * (self.costs.e_mul_pj + self.costs.e_add_pj) + adds * self.costs.e_add_pj

    def _dense_addresses(self, o: LayerOperations, passes: int) -> float:
        return o.inputs + o.outputs + o.kernel * passes

    def _weights(self, o: LayerOperations) -> float:
        return o.weights / o.steps if o.product else o.weights

    def _word(self, numbers: float) -> float:
        """Energy of an access to 32 bits in a memory that holds so many of them."""
        return WORD * self.costs.memory_cost_pj(numbers * WORD)


def _share(o: LayerOperations) -> float:
    """The activation's bits as a share of 32, which is what a multiplication with it costs."""
    return bits(o.levels, o.steps) / 32 if o.levels else 1.0


MODELS: dict[str, _Model] = {"compute": _Compute(), "memory": _Memory(), "full": _Full()}
