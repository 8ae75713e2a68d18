"""The networks of the benchmark of generalisation: a CNN, scale channels, time channels, and what they are compared with."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sterf_plugins.backbones import ScaleCovariantNet
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.stems import TemporalRF, covariant_like

# Scale channels a factor of sqrt(2) apart. They share their weights, so that the finest two, which halves of the trained
# size need, are left out of the training. It enlarges windows by up to what the finest channel will see of the largest digits.
SCALES = tuple(2 ** (k / 2) for k in range(8))
TRAINED_SCALES = SCALES[2:]
CHANNELS: dict[str, Any] = dict(
    dims=(16, 32, 32, 64), depths=(0, 0, 0, 0), strides=(2, 1, 2, 1), scales=TRAINED_SCALES, zoom=8
)


def neuron(spiking: bool) -> nn.Module:
    return IntegerSpike(4) if spiking else nn.ReLU()


def cnn(spiking: bool, in_chans: int = 1, classes: int = 10) -> nn.Sequential:
    """Three times convolution, BN, neuron and max-pooling; the maximum over pixels; a linear head."""
    layers: list[nn.Module] = []
    for width, dim in ((in_chans, 16), (16, 32), (32, 64)):
        conv = nn.Conv2d(width, dim, 5, padding=2, bias=False)
        layers += [conv, nn.BatchNorm2d(dim), neuron(spiking), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def covariant_cnn(spiking: bool) -> nn.Sequential:
    """The same with receptive fields in place of its first convolution."""
    model = cnn(spiking)
    model[0] = covariant_like(model[0])
    return model


def scale_channels(spiking: bool, **options: Any) -> nn.Module:
    neuron = "integer" if spiking else "relu"
    return ScaleCovariantNet(**CHANNELS | options, neuron=neuron, in_chans=1, num_classes=10)


def with_all_scales(trained: nn.Module, spiking: bool) -> nn.Module:
    """The trained weights, with the finest channels too."""
    model = scale_channels(spiking, scales=SCALES).to(next(trained.parameters()).device)
    model.load_state_dict(trained.state_dict())
    return model


class Side(NamedTuple):
    """A network, its learning rate, whether its training sees all sizes, and what makes the tested network of it."""

    build: Callable[[bool], nn.Module]
    rate: float = 0.003
    augmented: bool = False
    finish: Callable[[nn.Module, bool], nn.Module] = lambda model, spiking: model


# Mixtures of fields are larger numbers than weights, and need larger steps.
SIZE = {
    "CNN": Side(cnn),
    "CNN, scale augmentation": Side(cnn, augmented=True),
    "CNN, covariant stem": Side(covariant_cnn),
    "scale channels": Side(scale_channels, 0.02, finish=with_all_scales),
}


class TimeSurfaces(nn.Module):
    """Leaky integrators of the time constants ``mus``; a CNN sees the last potentials of each; maximum over constants.

    (T, B, 2, H, W) -> (B, 10).
    """

    def __init__(self, mus: tuple[float, ...]):
        super().__init__()
        self.time = TemporalRF(mus, gain="peak", combine="last", learn_mu=False)
        self.cnn = cnn(spiking=False, in_chans=2)

    def forward(self, x: Tensor) -> Tensor:
        surfaces = self.time(x)[0].unflatten(1, (self.time.scales, -1))
        return self.cnn(surfaces.flatten(0, 1)).unflatten(0, surfaces.shape[:2]).amax(1)


class TimedConv(nn.Module):
    """Convolution, BN and LIF neurons; each of the time constants has its own part of the batch.

    (T, K B, C, H, W) -> (T, K B, C', H / 2, W / 2), or from (T, B, C, H, W) in the first layer.
    """

    def __init__(self, width: int, dim: int, mus: tuple[float, ...], first: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(width, dim, 5, 2, 2, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.times = nn.ModuleList(TemporalRF((mu,), "lif", gain="peak", learn_mu=False) for mu in mus)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        parts = [y] * len(self.times) if self.first else y.chunk(len(self.times), 1)
        return torch.cat([time(part)[0] for time, part in zip(self.times, parts, strict=True)], 1)


class TimeChannels(nn.Module):
    """A spiking CNN that runs with each of the time constants ``mus``, and the maximum of their logits at the end.

    (T, B, 2, H, W) -> (B, 10).
    """

    def __init__(self, mus: tuple[float, ...]):
        super().__init__()
        self.layers = nn.Sequential(TimedConv(2, 8, mus, True), TimedConv(8, 16, mus), TimedConv(16, 32, mus))
        self.readouts = nn.ModuleList(TemporalRF((mu,), gain="peak", combine="last", learn_mu=False) for mu in mus)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.layers(x).amax((-2, -1)).chunk(len(self.readouts), 1)
        sums = torch.stack([readout(part)[0] for readout, part in zip(self.readouts, spikes, strict=True)])
        return self.head(sums).amax(0)


class Recurrent(nn.Module):
    """A CNN for each step, and a GRU; (T, B, 2, H, W) -> (B, 10)."""

    def __init__(self):
        super().__init__()
        self.cnn = cnn(spiking=False, in_chans=2, classes=64)
        self.gru = nn.GRU(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.cnn(x.flatten(0, 1)).unflatten(0, x.shape[:2]))[0][-1])


ONE, SEVERAL = (8.0,), (2.0, 4.0, 8.0, 16.0, 32.0)
TIME: dict[str, Callable[[], nn.Module]] = {
    "GRU": Recurrent,
    "leaky integrators, one time constant": lambda: TimeSurfaces(ONE),
    "leaky integrators, time channels": lambda: TimeSurfaces(SEVERAL),
    "LIF, one time constant": lambda: TimeChannels(ONE),
    "LIF, time channels": lambda: TimeChannels(SEVERAL),
}


def group_convolutions(options: dict, channels: int, folder: Path | None) -> Callable[[Tensor], Tensor]:
    """Escnn's group convolutions of the same widths, windows and strides, over ``channels`` rotations.

    escnn knows rotations and reflections and no scales; a group convolution costs the same for as many scales on one grid.
    Its rotations in three dimensions, which need lie_learn (built against numpy 1), are not used here.
    """
    if folder is not None:
        sys.path.append(str(folder))
    parts = ["lie_learn", "representations", "SO3", "wigner_d"]
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
    sys.modules[".".join(parts)].wigner_D_matrix = None  # type: ignore[attr-defined]
    from escnn import gspaces
    from escnn import nn as enn

    space = gspaces.rot2dOnR2(channels)
    image = width = enn.FieldType(space, [space.trivial_repr])
    layers = []
    for dim, stride in zip(options["dims"], options["strides"], strict=True):
        fields = enn.FieldType(space, dim * [space.regular_repr])
        layers += [enn.R2Conv(width, fields, 7, stride=stride, padding=3, bias=False)]
        layers += [enn.InnerBatchNorm(fields), enn.ReLU(fields)]
        width = fields
    model = enn.SequentialModule(*layers, enn.GroupPooling(width)).eval()
    return lambda x: model(enn.GeometricTensor(x, image)).tensor.amax((-2, -1))


class OneGrid(nn.Module):
    """Scale channels without a pyramid: windows that grow with the scale, all on the grid of the image."""

    def __init__(self, options: dict):
        super().__init__()
        self.channels = nn.ModuleList()
        for scale in options["scales"]:
            layers, width = nn.Sequential(), 1
            for dim, stride in zip(options["dims"], options["strides"], strict=True):
                size = 2 * round(3 * scale) + 1
                layers.extend(
                    [nn.Conv2d(width, dim, size, stride, size // 2, bias=False), nn.BatchNorm2d(dim), nn.ReLU()]
                )
                width = dim
            self.channels.append(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([channel(x).amax((-2, -1)) for channel in self.channels]).amax(0)
