"""The fields of one batch: a single forward pass for all layers, then backward passes from each of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..firing import FiringRates
from ..undisturbed import reset_states, stateful
from .layouts import Geometry, Grid, Windows, to_map
from .selection import Place, channel_vectors, select

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "signed": lambda g: g,
    "square": torch.square,
    "relu": torch.relu,
}
KINDS = ("spatial", "temporal", "spatiotemporal")


@dataclass(frozen=True)
class Settings:
    """What to compute: arguments of ``compute_erf``, ``places`` being its ``position`` as a list."""

    kinds: tuple[str, ...]
    places: list[str | Place]
    reduce: str
    time: str
    weight: Callable[[int, int], float] | np.ndarray | None
    channels: str | int
    seed: int


@dataclass
class Target:
    """A layer whose fields are computed, and what is known about its output's layout (see ``layouts.to_map``)."""

    name: str
    module: nn.Module
    windows: Windows | None = None
    grid: Grid | None = None
    layout: str | None = None


@dataclass
class Captured:
    """What is kept of one output during a forward pass.

    Attributes:
        places: for each place in the settings, the output there: tensors (T, B, C), one per call of the layer.
        total: for the T-ERF, the output summed over all positions: tensors (T, B, C), one per call.
        size: (h, w) of the output as a map.
        steps: number of output steps so far.
        spikes: names of the spike layers that had run by then.
    """

    places: list[list[Tensor]]
    total: list[Tensor] = field(default_factory=list)
    size: Grid = (0, 0)
    steps: int = 0
    spikes: list[str] = field(default_factory=list)


@dataclass
class BatchFields:
    """What ``fields_of`` finds in one batch; all mappings are in order of execution.

    Attributes:
        values: output name -> kind -> float64 array: "spatial" (B, H, W), "temporal" (B, T), "spatiotemporal" (B, T, T,
            H, W).
        sizes: output name -> (h, w) of the output's map.
        spikes: output name -> names of the spike layers that ran before it.
    """

    values: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, Grid]
    spikes: dict[str, list[str]]


def fields_of(
    model: nn.Module,
    forward: Callable[[Tensor], Any],
    images: Tensor,
    targets: list[Target],
    geometry: Geometry,
    settings: Settings,
    rates: FiringRates | None = None,
) -> BatchFields:
    """Compute the fields of all targets for one batch; stateful neurons are reset before and after.

    Args:
        model: the module that contains the targets.
        forward: the function to call with the images: the model, or a part of it.
        images: (B, C, H, W), or (T, B, C, H, W) for a model with a time axis.
        targets: layers whose outputs are differentiated.
        geometry: what is known about the forward pass; its ``batch`` is replaced by that of the images.
        settings: what to compute.
        rates: what counts the spikes of the forward pass, if the model has spike layers.

    Raises:
        ValueError: a target is not reached, has an unclear layout, or does not depend on the images by gradients.
    """
    timed = images.ndim == 5
    axis = 1 if timed else 0
    batch = images.shape[axis]
    if batch == 1:
        # PyTorch's CPU BatchNorm backward is silently wrong at batch 1 for some gradient strides; and with two inputs
        # no axis of length 1 can be taken for the batch.
        images = torch.cat([images, images], axis)
    geometry = Geometry(geometry.size, images.shape[axis], geometry.steps, geometry.strides, geometry.prefix)
    x = images.detach().clone().requires_grad_()
    reset_states(model)
    # A network that loops over time calls its layers once per step; how often is known from T alone.
    calls = geometry.steps or (float("inf") if stateful(model) else 1)
    captured = _capture(forward, x, targets, geometry, settings, calls, rates)
    spikes = {name: output.spikes for name, output in captured.items()}
    sizes = {name: output.size for name, output in captured.items()}
    results: dict[str, dict[str, np.ndarray]] = {}
    # Outputs go from the last to the first and are dropped after use, which frees their part of the graph at once.
    for name in reversed(list(captured)):
        output = captured.pop(name)
        results[name] = _fields(name, output, x, settings, keep=bool(captured))
        results[name] = {kind: value[:batch] for kind, value in results[name].items()}
        output.places.clear()
    reset_states(model)
    return BatchFields({name: results[name] for name in sizes}, sizes, spikes)


class _Reached(Exception):
    """All targets have been computed; the rest of the forward is not needed."""


def _capture(
    forward: Callable[[Tensor], Any],
    x: Tensor,
    targets: list[Target],
    geometry: Geometry,
    settings: Settings,
    calls: float,
    rates: FiringRates | None,
) -> dict[str, Captured]:
    """Outputs of the targets, in order of execution; the forward stops after the last of them."""
    captured: dict[str, Captured] = {}
    pending = {t.name for t in targets}

    def hook(target: Target):
        def store(module: nn.Module, arguments: Any, result: Any) -> None:
            if target.name not in pending:
                return
            done = True
            for name, y in _tensors(target.name, result):
                done &= _store(captured, name, y, target, geometry, settings, calls)
                captured[name].spikes = list(rates.layers) if rates is not None else []
            if done:
                pending.discard(target.name)
            if not pending:
                raise _Reached

        return store

    handles = [t.module.register_forward_hook(hook(t)) for t in targets]
    try:
        forward(x)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    absent = [t.name for t in targets if t.name in pending and not any(_belongs(n, t.name) for n in captured)]
    if absent:
        raise ValueError(f"the forward pass never reached {', '.join(absent)}; name layers that it runs.")
    return captured


def _belongs(output: str, layer: str) -> bool:
    """Whether a captured output is that of the layer, or one of the several that the layer returns."""
    return output == layer or output.startswith(f"{layer}[")


def _tensors(name: str, result: Any) -> list[tuple[str, Tensor]]:
    """The floating-point tensors in a module's output: ``name``, or ``name[key]`` for each of several."""
    if isinstance(result, Tensor):
        return [(name, result)]
    if isinstance(result, dict):
        items = list(result.items())
    elif isinstance(result, (list, tuple)):
        items = list(enumerate(result))
    else:
        raise ValueError(f"layer {name!r} gives a {type(result).__name__}; tensors, tuples and dicts are understood.")
    tensors = []
    for key, value in items:
        if isinstance(value, Tensor) and value.is_floating_point():
            tensors.append((f"{name}[{key}]", value))
        elif isinstance(value, (dict, list, tuple)):
            tensors.extend(_tensors(f"{name}[{key}]", value))
    if not tensors:
        raise ValueError(f"layer {name!r} gives no floating-point tensor.")
    return tensors


def _store(
    captured: dict[str, Captured],
    name: str,
    y: Tensor,
    target: Target,
    geometry: Geometry,
    settings: Settings,
    calls: float,
) -> bool:
    """Keep what is needed of one output; returns whether all its time steps are there."""
    if not y.is_floating_point():
        raise ValueError(f"layer {name!r} gives {y.dtype}; gradients need a floating-point output.")
    if not y.requires_grad:
        raise ValueError(
            f"layer {name!r}: its output does not depend on the input by gradients. Likely causes: a `no_grad` or "
            f"`detach` inside the model, or a layer that does not see the image."
        )
    output, timed = to_map(
        name, y, target.module, geometry, windows=target.windows, grid=target.grid, layout=target.layout
    )
    if not output.numel():
        raise ValueError(
            f"layer {name!r} gives an empty {output.shape[-2]}x{output.shape[-1]} map for inputs of "
            f"{geometry.size[0]}x{geometry.size[1]}; use larger inputs."
        )
    if name not in captured:
        captured[name] = Captured([[] for _ in settings.places])
    kept = captured[name]
    if timed and kept.steps:
        return True  # a second call of a shared layer
    kept.size = (output.shape[-2], output.shape[-1])
    kept.steps += output.shape[0]
    if "spatial" in settings.kinds or "spatiotemporal" in settings.kinds:
        for selections, place in zip(kept.places, settings.places, strict=True):
            selections.append(select(name, output, place))
    if "temporal" in settings.kinds:
        kept.total.append(select(name, output, "all"))
    return timed or kept.steps >= calls


def _fields(name: str, output: Captured, x: Tensor, settings: Settings, keep: bool) -> dict[str, np.ndarray]:
    """All kinds of fields of one output, for each input; ``keep`` spares the graph for the outputs still to come."""
    timed = x.ndim == 5
    kinds = settings.kinds
    generator = torch.Generator().manual_seed(settings.seed)
    reduction = REDUCTIONS[settings.reduce]
    places = [torch.cat(parts) for parts in output.places if parts]
    vectors, factor = channel_vectors(settings.channels, (places or [torch.cat(output.total)])[0], generator)
    jobs: list[tuple[Tensor, Callable[[Tensor], None]]] = []  # a sum to differentiate, and what takes its gradient
    sums: dict[str, Tensor] = {}
    batch = x.shape[1 if timed else 0]
    steps = x.shape[0] if timed else 1

    def add(kind: str, index: tuple, value: Tensor, shape: tuple[int, ...]) -> None:
        if kind not in sums:
            sums[kind] = torch.zeros(batch, *shape, dtype=torch.float64, device=x.device)
        sums[kind][(slice(None), *index)] += value

    size = tuple(x.shape[-2:])
    share = factor / max(1, len(places))  # of one place and one vector in the field
    single_steps = "spatiotemporal" in kinds or ("spatial" in kinds and settings.time == "each")
    for vector in vectors:
        for y in places:
            if single_steps:
                jobs.extend(_each_step(y, vector, steps, timed, settings, reduction, share, add, size))
            if "spatial" in kinds and settings.time == "sum":

                def spatial(g: Tensor, count: int = y.shape[0]) -> None:
                    g = g.sum(0) if timed else g  # over input steps, before the absolute value
                    add("spatial", (), reduction(g).mean(1, dtype=torch.float64) * share / count, size)

                jobs.append(((y * vector).sum(), spatial))
        if "temporal" in kinds:
            last = torch.cat(output.total)[-1]

            def temporal(g: Tensor) -> None:
                mass = reduction(g).mean(2, dtype=torch.float64).sum((-2, -1))  # (T, B)
                add("temporal", (), mass.flip(0).T * factor, (steps,))

            jobs.append(((last * vector).sum(), temporal))
    for i, (target, use) in enumerate(jobs):
        retain = keep or i + 1 < len(jobs)
        (g,) = torch.autograd.grad(target, x, retain_graph=retain, allow_unused=True)
        use(torch.zeros_like(x) if g is None else g)
    return {kind: sums[kind].cpu().numpy() for kind in kinds if kind in sums}


def _each_step(y, vector, steps, timed, settings, reduction, share, add, size):
    """A job for each output step: the ST-ERF, and the S-ERF that weighs |dy[t]/dx[t - lag]| by w(t, lag)."""
    count = y.shape[0]
    for t in range(count):
        out = t if count == steps or not timed else steps - 1  # an output without a time axis belongs to the last step

        def use(g: Tensor, t: int = t, out: int = out) -> None:
            g = reduction(g).mean(-3, dtype=torch.float64)  # (T, B, H, W) or (B, H, W)
            for lag in range(out + 1 if timed else 1):
                step = g[out - lag] if timed else g
                if "spatiotemporal" in settings.kinds:
                    add("spatiotemporal", (out, lag), step * share, (steps, steps, *size))
                if "spatial" in settings.kinds and settings.time == "each":
                    add("spatial", (), step * share * weight_at(settings.weight, out + 1, lag) / count, size)

        yield (y[t] * vector).sum(), use


def weight_at(weight: Callable[[int, int], float] | np.ndarray | None, t: int, lag: int) -> float:
    """The factor w(t, lag), with t counted from 1 as in the papers; 1 where ``weight`` is ``None``."""
    if weight is None:
        return 1.0
    return float(weight(t, lag)) if callable(weight) else float(weight[t - 1, lag])
