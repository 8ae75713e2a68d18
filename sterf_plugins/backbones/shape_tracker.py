"""The covariant paper's network: follow moving shapes in an event stream."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.readouts import LeakyReadout, SoftArgmax2d
from ..checks import fraction, one_of, positive_int
from ..stems.bank import as_bank
from ..stems.covariant import CovariantRFConv2d
from ..stems.temporal import TemporalRF, uniform_constants

UNITS = ("li", "lif", "relu")
READOUTS = ("dsnt", "dsntli")
HEADS = ("conv", "deconv")
State = list[Tensor | None]


class Tracks(NamedTuple):
    """What a tracker says about T frames."""

    coordinates: Tensor  # (T, B, classes, 2), (row, column) in [-1, 1]
    probabilities: Tensor  # (T, B, classes, h, w), each map sums to 1
    rates: list[Tensor]  # mean activity of each channel of each spiking layer, (C,)


class ShapeTracker(nn.Module):
    """Parallel channels of different time constants, each a few layers of receptive fields and neurons.

    Each layer halves the image, convolves and integrates over time; a map per class follows, and its mean is the
    place. Fields are a start, not a constraint, as in the paper.

    ``forward(x (T, B, in_ch, H, W), state=None) -> (Tracks, state)``; feeding a sequence in pieces gives what feeding
    it whole gives.

    Args:
        in_ch: polarities, times the frames that are stacked.
        classes: shapes to follow.
        unit: "li": leaky integrator and ReLU; "lif": spiking; "relu": no memory.
        layers: per layer dict(out_ch, bank), bank being arguments of ``RFBank``.
        mus: a time constant in frames per parallel channel; those of "relu" have none but keep their number.
        init: start of the fields, "rf" or "uniform".
        temporal_init: start of the time constants; ``None``: as ``init``. Uniform draws are between those of ``mus``.
        share: one set of convolutions for all channels, and one time constant for all layers of a channel.
        norm: BN before each convolution.
        head: "conv": 1x1 over all channels; "deconv": pooling, the mean of the channels, a transposed 5x5 and a unit.
        readout: "dsnt" or "dsntli".
        ramp: of the readout, "linspace" or "centre".
        dropout: before the softmax.
        threshold: of "lif".
        surrogate: of "lif"; ``None``: SpikingJelly's sigmoid.

    Raises:
        ValueError, TypeError: an argument is out of range, or the input has no time axis.

    Source: Nat. Commun. 16:8231 (2025).
    """

    def __init__(
        self,
        in_ch: int = 2,
        classes: int = 3,
        unit: str = "li",
        layers: Sequence[Mapping] = (dict(out_ch=8, bank=dict(sigmas=(1.0, 1.5), orders=1, kernel_size=9)),),
        mus: Sequence[float] = (3.0, 9.0),
        init: str = "rf",
        temporal_init: str | None = None,
        share: bool = True,
        norm: bool = False,
        head: str = "conv",
        readout: str = "dsntli",
        ramp: str = "linspace",
        dropout: float = 0.0,
        threshold: float = 0.1,
        surrogate=None,
    ):
        super().__init__()
        one_of("unit", unit, UNITS)
        one_of("init", init, ("rf", "uniform"))
        one_of("temporal_init", temporal_init, ("rf", "uniform", None))
        one_of("head", head, HEADS)
        one_of("readout", readout, READOUTS)
        fraction("dropout", dropout)
        positive_int("classes", classes)
        if not layers or not mus:
            raise ValueError(f"`layers` is {list(layers)} and `mus` {list(mus)}; each needs at least one entry.")
        self.unit, self.share, self.head_kind, self.dropout = unit, share, head, dropout

        widths = [in_ch, *(layer["out_ch"] for layer in layers)]
        self.convs = nn.ModuleList()  # channel after channel, layer after layer; one channel's where shared
        for _ in range(1 if share else len(mus)):
            for layer, width in zip(layers, widths, strict=False):
                field = "rf-free" if init == "rf" else init
                conv = CovariantRFConv2d(width, layer["out_ch"], as_bank(layer["bank"]), init=field)
                self.convs.append(nn.Sequential(nn.BatchNorm2d(width), conv) if norm else conv)
        self.depth, self.count = len(layers), len(mus)

        starts = uniform_constants(mus).tolist() if (temporal_init or init) == "uniform" else mus
        self.units = nn.ModuleList()  # likewise; one for each channel where shared
        if unit != "relu":
            options = dict(kind=unit, th=threshold, surrogate=surrogate)
            repeats = 1 if share else self.depth
            self.units.extend(TemporalRF([mu], **options) for mu in starts for _ in range(repeats))
        if head == "conv":
            self.head = nn.Conv2d(widths[-1] * self.count, classes, 1)
            self.head_unit = None
        else:
            self.head = nn.ConvTranspose2d(widths[-1], classes, 5, bias=False)
            self.head_unit = None if unit == "relu" else TemporalRF([min(mus)], kind="li")
        self.readout = SoftArgmax2d(ramp)
        self.leaky_readout = LeakyReadout() if readout == "dsntli" else None

    @property
    def has_memory(self) -> bool:
        """Whether earlier frames matter; without it there is no use in a warm-up."""
        return self.unit != "relu" or self.leaky_readout is not None

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tracks, State]:
        if x.ndim != 5:
            raise ValueError(f"input has shape {tuple(x.shape)}; it must be (T, B, C, H, W).")
        before = repeat(None) if state is None else iter(state)
        after: State = []
        rates: list[Tensor] = []

        def over_time(unit: TemporalRF, y: Tensor) -> Tensor:
            y, last = unit(y, next(before))
            after.append(last)
            return y

        outputs: list[Tensor] = []
        for k in range(self.count):
            layers = slice(k * self.depth, (k + 1) * self.depth)
            convs = self.convs if self.share else self.convs[layers]
            units = [self.units[k]] * self.depth if self.share and self.units else self.units[layers]
            if not outputs or not self.share:
                first = _drive(convs[0], x)  # the same for all channels where shared
            y = first
            for depth, conv in enumerate(convs):
                y = _drive(conv, y) if depth else y
                y = over_time(units[depth], y) if units else y
                if self.unit == "lif":
                    rates.append(y.mean((0, 1, 3, 4)))
                else:
                    y = y.relu()
            outputs.append(y)

        if self.head_kind == "conv":
            maps = _frames(self.head, torch.cat(outputs, 2))
        else:
            y = torch.stack([_frames(nn.MaxPool2d(2), y) for y in outputs]).mean(0)
            maps = _frames(self.head, y)
            maps = maps.relu() if self.head_unit is None else over_time(self.head_unit, maps).relu()
        maps = F.dropout(maps, self.dropout, self.training)
        coordinates, probabilities = self.readout(maps)
        if self.leaky_readout is not None:
            coordinates, last = self.leaky_readout(coordinates, next(before))
            after.append(last)
        return Tracks(coordinates, probabilities, rates), after


def _drive(conv: nn.Module, x: Tensor) -> Tensor:
    return _frames(lambda frames: conv(F.avg_pool2d(frames, 2)), x)


def _frames(function, x: Tensor) -> Tensor:
    """A function of images applied to (T, B, C, H, W)."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
