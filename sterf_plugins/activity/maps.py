"""Which neurons never fire, and which always fire at the maximum: maps over channels and positions."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ..firing import check_spikes, check_spiking, has_time_axis, input_of, neuron_layers, spikes_of
from ..undisturbed import in_backward_pass, uncompiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class FiringMap:
    """What the neurons of a layer did over all images so far.

    Attributes:
        never: (C, ...) whether each neuron, that is a channel at a position, never fired.
        always: (C, ...) whether each neuron fired at the maximum D in all images and all time steps.
        windows: number of neighbourhoods of 3x3 neurons of a channel that were looked at, over all images.
        saturated: how many of these fired at the maximum in all time steps, all nine neurons of them.
    """

    never: np.ndarray
    always: np.ndarray
    windows: int = 0
    saturated: int = 0

    @property
    def local_saturation(self) -> float:
        """Share of 3x3 neighbourhoods that are saturated; 0 for layers without a picture."""
        return self.saturated / self.windows if self.windows else 0.0

    def merge(self, other: "FiringMap") -> None:
        """Add what the same layer did for other images of the same size."""
        self.never, self.always = self.never & other.never, self.always & other.always
        self.windows, self.saturated = self.windows + other.windows, self.saturated + other.saturated

    def as_dict(self) -> dict[str, float]:
        """Shares of neurons and neighbourhoods, and of channels that are at the maximum everywhere."""
        full = self.always.reshape(len(self.always), -1).all(1)
        return dict(
            never=float(self.never.mean()), always=float(self.always.mean()), full=float(full.mean()),
            local_saturation=self.local_saturation,
        )  # fmt: skip


class FiringMaps:
    """Context manager: a ``FiringMap`` of every neuron layer in the forward passes inside, on images of one size.

    Local saturation is what SpikeDet (arXiv:2501.15151) describes: neighbouring neurons that fire at their maximum at
    the same time, so that a region carries no detail. Its number here is the share of 3x3 neighbourhoods. Of a neuron that is
    called for each time step, each call counts as an image with a single step.

    Args:
        model: a module with neuron layers; the axes of their outputs are those of ``FiringRates``.

    Attributes:
        layers: name of the neuron layer -> map. A layer that also runs at other sizes has one for each, with the size
            behind the name, as in "neck.spike 16x16", or the channels where it has no size or others: "neck.spike C64".

    Raises:
        ValueError: the model has no neuron layer; in a forward pass, if neurons give NaN.
    """

    def __init__(self, model: nn.Module):
        check_spiking(model)
        self._model = model
        self._watching = ExitStack()
        self.layers: dict[str, FiringMap] = {}

    def __enter__(self) -> "FiringMaps":
        self._watching.enter_context(uncompiled())
        for name, (module, levels, norm) in neuron_layers(self._model).items():
            self._watching.callback(
                module.register_forward_hook(self._watch(name, levels, norm), with_kwargs=True).remove
            )
        return self

    def __exit__(self, *error) -> None:
        self._watching.close()

    def _watch(self, name: str, levels: int, norm: float):
        def watch(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
            y = spikes_of(output).detach()
            if in_backward_pass() or not y.numel():
                return
            check_spikes(name, y, input_of(arguments, options))
            if not has_time_axis(module, y):
                y = y.movedim(2, 1)[None] if y.ndim == 3 else y[None]
            found = _map(y, getattr(module, "levels_now", levels), norm)
            same = self.layers.setdefault(name, found)
            if same.never.shape != found.never.shape:
                same = self.layers.setdefault(f"{name} {_size(found, same)}", found)
            if same is not found:
                same.merge(found)

        return watch


def _size(found: FiringMap, first: FiringMap) -> str:
    """What tells a map from the first one of its layer."""
    channels, *size = found.never.shape
    own = f"C{channels}" if not size or channels != len(first.never) else ""
    return " ".join(filter(None, (own, "x".join(map(str, size)))))


def _map(y: Tensor, levels: int, norm: float) -> FiringMap:
    """The map of outputs (T, B, C, ...)."""
    never = (y < 0.5 / norm).all(0)
    full = (y > (levels - 0.5) / norm).all(0)
    found = FiringMap(never.all(0).cpu().numpy(), full.all(0).cpu().numpy())
    if full.ndim == 4 and min(full.shape[2:]) >= 3:
        windows = -F.max_pool2d(-full.float(), 3, 1)  # the smallest of each nine
        found.windows, found.saturated = windows.numel(), int(windows.sum())
    return found


def draw_firing_maps(layers: dict[str, FiringMap]) -> "Figure":
    """A panel for each layer with a picture: at each position the share of channels that never fire, or always fully.

    Blue are positions where neurons never fire, red where they always fire at the maximum, white where they do neither.

    Args:
        layers: as in ``FiringMaps.layers``.

    Raises:
        ValueError: no layer has positions in a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = {name: layer for name, layer in layers.items() if layer.never.ndim == 3}
    if not pictures:
        raise ValueError("`layers` has no layer with outputs (..., C, H, W) to draw.")
    columns = min(8, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes[len(pictures) :]:
        ax.axis("off")
    for ax, (name, layer) in zip(axes, pictures.items(), strict=False):
        never, always = layer.never.mean(0), layer.always.mean(0)
        ax.imshow(np.stack([1 - never, 1 - never - always, 1 - always], -1).clip(0, 1))
        ax.set_title("\n".join(name.rsplit(".", 2)[-3:]), fontsize=5)
        ax.set_axis_off()
    figure.suptitle("blue: neurons that never fire; red: neurons that always fire at the maximum", fontsize=8)
    return figure
