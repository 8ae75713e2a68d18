"""The network of the covariant paper (Nat. Commun. 16:8231, 2025), which follows moving shapes in an event stream."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import entries, flag, fraction, number_above, one_of, positive_int
from ..layers.over_time import over_time
from ..stems.fields.bank_arguments import as_bank
from ..stems.fields.covariant_conv import CovariantRFConv2d
from ..stems.fields.temporal import TemporalRF, uniform_constants
from .readouts import LeakyReadout, SoftArgmax2d

UNITS = ("li", "lif", "relu")
READOUTS = ("dsnt", "dsntli")
HEADS = ("conv", "deconv")
State = list[Tensor | None]  # one entry for each unit that remembers, in the order in which ``forward`` runs them


class Tracks(NamedTuple):
    """Where a tracker sees the shapes in T frames.

    Args:
        coordinates: (T, B, classes, 2), the shapes' places as (row, column) in [-1, 1].
        probabilities: (T, B, classes, h, w), the maps whose means they are; each sums to 1.
        rates: mean activity of each channel, (C,), for every spiking layer of every branch.
    """

    coordinates: Tensor
    probabilities: Tensor
    rates: list[Tensor]


def _check_entries(layers: Sequence[Mapping], mus: Sequence[float]) -> None:
    """Raise ``ValueError`` unless these can be the layers of a branch, and the time constants of the branches."""
    for layer in layers:
        if not isinstance(layer, Mapping) or set(layer) != {"out_ch", "bank"}:
            raise ValueError(f"`layers` has {layer!r}; each is dict(out_ch=…, bank=…).")
    for mu in mus:
        number_above("mus", mu, 0)
    if not layers or not mus:
        raise ValueError(f"`layers` is {list(layers)} and `mus` {list(mus)}; each needs at least one entry.")


class ShapeTracker(nn.Module):
    """Parallel branches of different time constants, each a few layers of receptive fields and neurons.

    Each layer halves the image, convolves it and integrates over time. The head makes a map for each shape from the
    outputs of all branches, and the mean coordinate of that map is the shape's place. The receptive fields are where
    the weights start; training may change every weight, as in the paper.

    ``forward(x, state=None)`` takes events (T, B, in_ch, H, W) and returns (``Tracks``, state). A sequence may come in
    pieces: if each returned state is passed to the next call, the results are those of the whole sequence.

    Args:
        in_ch: number of input channels: 2 polarities for each of the frames that are stacked.
        classes: number of shapes to follow.
        unit: neuron after each convolution. "li": leaky integrator and ReLU; "lif": leaky integrate-and-fire neuron;
            "relu": ReLU alone, without a memory.
        layers: for each layer a dict with ``out_ch``, its number of channels, and ``bank``, arguments of ``RFBank``.
        mus: time constant of each parallel branch, in frames. With "relu" only their number counts.
        init: start of the convolutions, "rf" for receptive fields or "uniform" for ``nn.Conv2d``'s random start.
        temporal_init: start of the time constants, "rf" for ``mus`` as given, or "uniform" for random ones between the
            smallest and the largest of ``mus``; ``None``: the same as ``init``.
        share: all branches use the same convolutions, and all layers of a branch have the same time constant.
        norm: put a BN before each convolution.
        head: "conv": a 1x1 convolution of all branches' outputs; "deconv": 2x2 max-pooling, the mean over branches, a
            transposed 5x5 convolution, a leaky integrator unless ``unit`` is "relu", and ReLU.
        readout: "dsnt": coordinates of each frame by itself; "dsntli": these after a leaky integrator over time.
        ramp: coordinates of a map's cells, "linspace" or "centre", see ``SoftArgmax2d``.
        dropout: dropout rate of the maps, before the softmax.
        threshold: firing threshold of the "lif" neurons.
        surrogate: surrogate function of the "lif" neurons; ``None``: SpikingJelly's sigmoid.

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
        flag("share", share), flag("norm", norm)
        if surrogate is not None and unit != "lif":
            raise ValueError(f"`surrogate` is of unit='lif', and `unit` is {unit!r}; leave it out.")
        layers, mus = entries("layers", layers), entries("mus", mus)
        _check_entries(layers, mus)
        self.unit, self.share, self.head_kind, self.dropout = unit, share, head, dropout

        widths = [in_ch, *(layer["out_ch"] for layer in layers)]
        # The layers of the first branch, then those of the second, ...; where shared, those of one branch serve all.
        self.convs = nn.ModuleList()
        for _ in range(1 if share else len(mus)):
            for layer, width in zip(layers, widths, strict=False):
                conv_init = "rf-free" if init == "rf" else init
                conv = CovariantRFConv2d(width, layer["out_ch"], as_bank(layer["bank"]), init=conv_init)
                self.convs.append(nn.Sequential(nn.BatchNorm2d(width), conv) if norm else conv)
        self.depth, self.num_branches = len(layers), len(mus)

        starts = uniform_constants(mus).tolist() if (temporal_init or init) == "uniform" else mus
        # In the same order, one for each layer of each branch; where shared, one for each branch serves its layers.
        self.units = nn.ModuleList()
        if unit != "relu":
            options = dict(kind=unit, th=threshold, surrogate=surrogate)
            repeats = 1 if share else self.depth
            self.units.extend(TemporalRF([mu], **options) for mu in starts for _ in range(repeats))
        if head == "conv":
            self.head: nn.Module = nn.Conv2d(widths[-1] * self.num_branches, classes, 1)
            self.head_unit = None
        else:
            self.head = nn.ConvTranspose2d(widths[-1], classes, 5, bias=False)
            self.head_unit = None if unit == "relu" else TemporalRF([min(mus)], kind="li")
        self.readout = SoftArgmax2d(ramp)
        self.leaky_readout = LeakyReadout() if readout == "dsntli" else None

    @property
    def has_memory(self) -> bool:
        """Whether earlier frames change the output; if not, a warm-up is useless."""
        return self.unit != "relu" or self.leaky_readout is not None

    @property
    def num_states(self) -> int:
        """Length of a state: units of all branches, of the head and of the readout."""
        units = self.num_branches * self.depth if self.units else 0
        return units + (self.head_unit is not None) + (self.leaky_readout is not None)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tracks, State]:
        if x.ndim != 5:
            raise ValueError(f"input has shape {tuple(x.shape)}; it must be (T, B, C, H, W).")
        if state is not None and len(state) != self.num_states:
            raise ValueError(
                f"`state` has {len(state)} entries, and this tracker {self.num_states}; give what a call returned."
            )
        old_states = repeat(None) if state is None else iter(state)
        new_states: State = []
        rates: list[Tensor] = []

        def run_unit(unit: nn.Module, y: Tensor) -> Tensor:
            y, new_state = unit(y, next(old_states))
            new_states.append(new_state)
            return y

        outputs: list[Tensor] = []
        for k in range(self.num_branches):
            layers = slice(k * self.depth, (k + 1) * self.depth)
            convs = self.convs if self.share else self.convs[layers]
            units = [self.units[k]] * self.depth if self.share and self.units else self.units[layers]
            if not outputs or not self.share:
                first = _pool_and_convolve(convs[0], x)  # where shared, all branches start with this result
            y = first
            for depth, conv in enumerate(convs):
                y = _pool_and_convolve(conv, y) if depth else y
                y = run_unit(units[depth], y) if units else y
                if self.unit == "lif":
                    rates.append(y.mean((0, 1, 3, 4)))
                else:
                    y = y.relu()
            outputs.append(y)

        if self.head_kind == "conv":
            maps = over_time(self.head, torch.cat(outputs, 2))
        else:
            y = torch.stack([over_time(nn.MaxPool2d(2), y) for y in outputs]).mean(0)
            maps = over_time(self.head, y)
            maps = maps.relu() if self.head_unit is None else run_unit(self.head_unit, maps).relu()
        maps = F.dropout(maps, self.dropout, self.training)
        coordinates, probabilities = self.readout(maps)
        if self.leaky_readout is not None:
            coordinates, new_state = self.leaky_readout(coordinates, next(old_states))
            new_states.append(new_state)
        return Tracks(coordinates, probabilities, rates), new_states


def _pool_and_convolve(conv: nn.Module, x: Tensor) -> Tensor:
    return over_time(lambda frames: conv(F.avg_pool2d(frames, 2)), x)
