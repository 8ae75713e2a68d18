"""A chain of convolutions with one neuron after each: the small networks whose receptive fields the papers draw."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .. import plugins
from ..checks import one_of, positive_int


class SpikingCNN(nn.Module):
    """Convolutions of equal width, each followed by an activation of its own.

    Every layer has a neuron object of its own; one object shared by all layers would let the last potential of one
    layer leak into the next.

    Args:
        depth: number of layers.
        channels: of the hidden layers and the output.
        kernel_size: odd; the padding keeps the size.
        neuron: "none", "relu", the name of a neuron plugin ("integer", "if", "lif", "plif", "ilif", "izhikevich", ...),
            or a function that returns a module.
        T: time steps for which images without a time axis are held; ``None`` for networks without one.
        in_chans: of the input.
        bias: of the convolutions.
        mean, std: of the normal distribution of the weights; ``mean=None`` for ``1 / kernel_size**2 / channels in``.
        surrogate: a SpikingJelly surrogate by class name ("ATan", "Sigmoid", "Rect", "PiecewiseQuadratic", ...).
        alpha: of the surrogate.
        **options: of the neuron, such as ``tau=2.0``.

    Shapes: (B, C, H, W) -> (B, channels, H, W) without ``T``, else (T, B, channels, H, W); (T, B, C, H, W) ->
    (T, B, channels, H, W).

    Raises:
        ValueError, TypeError: a number below 1, an even kernel, an unknown neuron or surrogate.
    """

    def __init__(
        self,
        depth: int = 5,
        channels: int = 1,
        kernel_size: int = 3,
        neuron: str | Callable[..., nn.Module] = "lif",
        T: int | None = None,
        in_chans: int = 1,
        bias: bool = False,
        mean: float | None = None,
        std: float = 0.0,
        surrogate: str | None = None,
        alpha: float = 2.0,
        **options: Any,
    ):
        super().__init__()
        depth, channels = positive_int("depth", depth), positive_int("channels", channels)
        if positive_int("kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"`kernel_size` is {kernel_size}; it must be odd, so that the output keeps the size.")
        self.T = None if T is None else positive_int("T", T)
        if surrogate is not None:
            options["surrogate_function"] = _surrogate(surrogate, alpha)
        build = _activation(neuron)
        self.layers = nn.Sequential()
        for i in range(depth):
            width = in_chans if i == 0 else channels
            conv = nn.Conv2d(width, channels, kernel_size, padding=kernel_size // 2, bias=bias)
            nn.init.normal_(conv.weight, 1 / kernel_size**2 / width if mean is None else mean, std)
            if bias:
                nn.init.zeros_(conv.bias)
            self.layers.append(_Layer(conv, build(**options)))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and self.T is not None:
            x = x.expand(self.T, *x.shape)
        return self.layers(x)


class _Layer(nn.Module):
    def __init__(self, conv: nn.Conv2d, neuron: nn.Module):
        super().__init__()
        self.conv = conv
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.neuron(self.conv(x))
        return self.neuron(self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def _activation(neuron: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    plain: dict[Any, Callable[..., nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU}
    if neuron in plain:
        return plain[neuron]
    return plugins.resolve("neurons", neuron)


_SURROGATES = (
    "ATan", "Erf", "PiecewiseExp", "PiecewiseQuadratic", "QPseudoSpike", "Rect", "Sigmoid", "SoftSign", "SuperSpike",
)  # fmt: skip


def _surrogate(name: str, alpha: float) -> nn.Module:
    from spikingjelly.activation_based import surrogate

    one_of("surrogate", name, _SURROGATES)
    return getattr(surrogate, name)(alpha=alpha)
