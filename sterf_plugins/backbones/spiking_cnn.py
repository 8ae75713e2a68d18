"""A chain of convolutions with one neuron after each.

Papers on receptive fields draw the fields of such small networks, which show what a neuron or a surrogate does to them.
The studies in ``configs/erf`` use this class.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .. import plugins
from ..checks import finite_number, flag, one_of, positive_int


class SpikingCNN(nn.Module):
    """Convolutions of equal width, each followed by an activation of its own.

    Every layer has a neuron object of its own; one object shared by all layers would let the last potential of one
    layer leak into the next.

    Args:
        depth: number of layers.
        channels: number of output channels of every layer.
        kernel_size: width of the square kernels, an odd number; the padding keeps the size of the maps.
        neuron: "none", "relu", the name of a neuron plugin ("integer", "if", "lif", "plif", "ilif", "izhikevich", ...),
            a dict of it as ``type`` and its options, or a function that returns a module.
        T: number of time steps for which an image without a time axis is held; ``None`` for a single step without a time
            axis.
        in_chans: number of input channels.
        bias: whether the convolutions have a bias, which starts at 0.
        mean, std: mean and standard deviation of the normal distribution from which the weights are drawn;
            ``mean=None`` for 1 / (kernel_size**2 * input channels of the layer).
        surrogate: class name of a SpikingJelly surrogate ("ATan", "Sigmoid", "Rect", "PiecewiseQuadratic", ...);
            ``None`` for the neuron's own.
        alpha: the surrogate's parameter ``alpha``; it has no effect without ``surrogate``.
        **options: arguments of the neuron, such as ``tau=2.0``.

    Shapes: an image (B, in_chans, H, W) gives (B, channels, H, W) if ``T`` is ``None`` and (T, B, channels, H, W)
    otherwise; a sequence (T, B, in_chans, H, W) gives (T, B, channels, H, W).

    Raises:
        ValueError, TypeError: a number below 1, an even kernel, an unknown neuron or surrogate, an option that the neuron does
            not have.
    """

    def __init__(
        self,
        depth: int = 5,
        channels: int = 1,
        kernel_size: int = 3,
        neuron: str | Mapping | Callable[..., nn.Module] = "lif",
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
        in_chans = positive_int("in_chans", in_chans)
        if finite_number("std", std) < 0:
            raise ValueError(f"`std` is {std}; it must be >= 0.")
        if positive_int("kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"`kernel_size` is {kernel_size}; it must be odd, so that the output keeps the size.")
        self.T = None if T is None else positive_int("T", T)
        spec = dict(neuron) if isinstance(neuron, Mapping) else {"type": neuron}
        if surrogate is not None:
            if spec.get("type") in WITHOUT_SURROGATE:
                raise ValueError(
                    f"`surrogate` is {surrogate!r}, and the neuron {spec['type']!r} has none, or its own alone: leave it out, or "
                    f"take another neuron, such as 'lif'."
                )
            options["surrogate_function"] = _surrogate(surrogate, alpha)
        build = _activation({**spec, **options})
        self.layers = nn.Sequential()
        for i in range(depth):
            width = in_chans if i == 0 else channels
            conv = nn.Conv2d(width, channels, kernel_size, padding=kernel_size // 2, bias=flag("bias", bias))
            nn.init.normal_(conv.weight, 1 / kernel_size**2 / width if mean is None else mean, std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.layers.append(Layer(conv, build()))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and self.T is not None:
            x = x.expand(self.T, *x.shape)
        return self.layers(x)


class Layer(nn.Module):
    """A convolution and its activation, for images (B, C, H, W) and sequences (T, B, C, H, W)."""

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module):
        super().__init__()
        self.conv = conv
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:  # a single time step, since a neuron would take the batch for time steps
            return self.neuron(self.conv(x).unsqueeze(0)).squeeze(0)
        return self.neuron(self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def _activation(spec: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """The function that builds one neuron; ``spec`` is its ``type`` and its options."""
    name = spec.get("type")
    if name in ("none", "relu"):
        plugins.check_options(f"`neuron` {name!r}", [option for option in spec if option != "type"], ())
        return nn.Identity if name == "none" else nn.ReLU
    return plugins.resolve("neurons", spec)


WITHOUT_SURROGATE = ("none", "relu", "integer", "ilif")
_SURROGATES = (
    "ATan", "Erf", "PiecewiseExp", "PiecewiseQuadratic", "QPseudoSpike", "Rect", "Sigmoid", "SoftSign", "SuperSpike",
)  # fmt: skip


def _surrogate(name: str, alpha: float) -> nn.Module:
    from spikingjelly.activation_based import surrogate

    one_of("surrogate", name, _SURROGATES)
    return getattr(surrogate, name)(alpha=finite_number("alpha", alpha))
