"""Neurons with a state inside layers that know no time axis."""

from torch import Tensor, nn

from ..checks import positive_int
from .described import Described
from .integer_spike import IntegerSpike


class MergedTimeNeuron(Described):
    """Run a neuron over the time steps of maps whose first axis is T*B, the steps outermost; the spikes keep that axis.

    Convolutions, norms and attention see T*B images, and only neurons join what belongs to one sample.

    Args:
        neuron: a module from (T, B, ...) to spikes (T, B, ...), such as ``StatelessNode``.
        T: number of time steps.
        norm: divisor of the number of spikes, so that the output lies in [0, 1].

    Raises:
        ValueError: ``T`` < 1; in ``forward``, if T does not divide the first axis.
    """

    def __init__(self, neuron: nn.Module, T: int, norm: int = 1):
        super().__init__()
        self.neuron = neuron
        self.T = positive_int("T", T)
        self.norm = positive_int("norm", norm)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % self.T:
            raise ValueError(f"the first axis has length {len(x)}, which T={self.T} time steps do not divide.")
        spikes = self.neuron(x.unflatten(0, (self.T, -1))).flatten(0, 1)
        return spikes if self.norm == 1 else spikes / self.norm

    def description(self) -> dict[str, int]:
        """The steps, and what their spikes are divided by."""
        return dict(T=self.T, norm=self.norm)

    def extra_repr(self) -> str:
        return f"T={self.T}, norm={self.norm}"


def put_neurons(module: nn.Module, neuron, T: int, norm: int = 1) -> None:
    """Put a new ``MergedTimeNeuron`` in the place of each ``IntegerSpike`` of a module.

    Args:
        module: any module; it is changed in place.
        neuron: function without arguments that makes one neuron.
        T: number of time steps.
        norm: divisor of the number of spikes.
    """
    for name, child in list(module.named_modules()):
        if isinstance(child, IntegerSpike):
            module.set_submodule(name, MergedTimeNeuron(neuron(), T, norm))
