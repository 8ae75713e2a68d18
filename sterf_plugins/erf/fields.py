"""The fields of one batch: a single forward pass for all layers, then backward passes from each of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..firing import FiringRates
from ..undisturbed import stateful
from .capture import Output, Seen, Target, capture
from .layouts import Evidence, Geometry, Grid, to_map
from .selection import PROJECTIONS, Place, channel_vectors, chosen_calls, select, sum_is_constant

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
    calls: str | int
    seed: int


@dataclass
class Facts:
    """What is known of one output.

    Attributes:
        size: (h, w) of the output as a map.
        tokens: whether it is a list of tokens, whose order in the map was not said but inferred.
        constant: whether the sum of the channels is constant, so that its gradient is rounding noise.
        spikes: names of the spike layers that ran before it.
    """

    size: Grid
    tokens: bool
    constant: bool
    spikes: list[str]


@dataclass
class Start:
    """Where the backward passes of one output start.

    Attributes:
        facts: what is known of the output.
        places: for each place in the settings, the output there, (T, B, C).
        total: for the T-ERF, the output summed over all positions, (T, B, C).
    """

    facts: Facts
    places: list[Tensor]
    total: Tensor | None


@dataclass
class BatchFields:
    """What ``fields_of`` finds in one batch; all mappings are in order of execution.

    Attributes:
        values: output name -> kind -> float64 array: "spatial" (B, H, W), "temporal" (B, T), "spatiotemporal" (B, T, T,
            H, W).
        facts: output name -> what is known of it.
        failed: layer -> why its field cannot be computed.
    """

    values: dict[str, dict[str, np.ndarray]]
    facts: dict[str, Facts]
    failed: dict[str, str]


def fields_of(
    model: nn.Module,
    forward: Callable[[Tensor], Any],
    images: Tensor,
    targets: list[Target],
    geometry: Geometry,
    settings: Settings,
    seen: Seen,
    known: dict[str, Facts],
    start_afresh: Callable[[], None],
    rates: FiringRates | None = None,
) -> BatchFields:
    """Compute the fields of all targets for one batch; the model starts afresh before and after it.

    Args:
        model: the module that contains the targets.
        forward: the function to call with the images: the model, or a part of it.
        images: (B, C, H, W), or (T, B, C, H, W) for a model with a time axis.
        targets: layers whose outputs are differentiated.
        geometry: what is known about the forward pass; its ``batch`` is replaced by that of the images.
        settings: what to compute.
        seen: what the first batch showed of the model; empty for the first batch.
        known: what earlier batches showed of the outputs, by name.
        start_afresh: lets the model forget its state.
        rates: what counts the spikes of the forward pass, if the model has spike layers.

    Raises:
        ValueError: no layer has a field; the message says why.
    """
    timed = images.ndim == 5
    axis = 1 if timed else 0
    batch = images.shape[axis]
    if batch == 1:
        # PyTorch's CPU BatchNorm backward is silently wrong at batch 1 for some gradient strides; and with two inputs
        # no axis of length 1 can be taken for the batch.
        images = torch.cat([images, images], axis)
    geometry = replace(geometry, batch=images.shape[axis])
    x = images.detach().clone().requires_grad_()
    start_afresh()
    # A network that loops over time calls its layers once per step.
    keeps_state = bool(stateful(model))
    loops = keeps_state or geometry.steps is not None
    outputs, failed = capture(model, forward, x, targets, seen, loops, rates)
    evidence = Evidence(model, seen.shapes)
    starts: dict[str, Start] = {}
    for name in list(outputs):
        output = outputs.pop(name)  # frees the copies of whole maps
        try:
            starts |= _starts(name, output, geometry, settings, evidence, known, in_steps=keeps_state)
        except ValueError as error:
            failed[output.target.name] = str(error)
    if not starts:
        reasons = list(dict.fromkeys(failed.values()))
        raise ValueError(" ".join(reasons[:3]))
    facts = {name: start.facts for name, start in starts.items()}
    results: dict[str, dict[str, np.ndarray]] = {}
    # Outputs go from the last to the first and are dropped after use, which frees their part of the graph at once.
    for name in reversed(list(starts)):
        results[name] = _fields(starts.pop(name), x, settings, keep=bool(starts))
        results[name] = {kind: value[:batch] for kind, value in results[name].items()}
    start_afresh()
    return BatchFields({name: results[name] for name in facts}, facts, failed)


def _starts(
    name: str,
    output: Output,
    geometry: Geometry,
    settings: Settings,
    evidence: Evidence,
    known: dict[str, Facts],
    in_steps: bool,
) -> dict[str, Start]:
    """Where backward passes start, by name: ``name#0``, ``name#1``, ... for a layer that is called several times.

    A model with a time axis may instead call its layers once, or several times, in each step of a loop; ``in_steps`` says
    that it may do so although its number of steps is not known.
    """
    target = output.target
    maps: list[Tensor] = []
    timed = tokens = False
    for y in output.calls:
        y, timed, tokens = to_map(
            name,
            y,
            target.module,
            geometry,
            evidence,
            windows=target.windows,
            grid=target.grid,
            layout=target.layout,
        )
        if not y.numel():
            raise ValueError(
                f"layer {name!r} gives an empty {y.shape[-2]}x{y.shape[-1]} map for inputs of "
                f"{geometry.size[0]}x{geometry.size[1]}; use larger inputs."
            )
        maps.append(y)
    count, steps = len(maps), geometry.steps
    if not timed and count > 1 and (count % steps == 0 if steps else in_steps):
        several = count // steps if steps else 1  # calls in each step
        maps = [torch.cat(maps[i::several]) for i in range(several)]
    starts = {}
    for i in chosen_calls(name, settings.calls, len(maps)):
        y, label = maps[i], name if len(maps) == 1 else f"{name}#{i}"
        constant = known[label].constant if label in known else sum_is_constant(y, target.module)
        facts = Facts((y.shape[-2], y.shape[-1]), tokens, constant, output.spikes)
        places = [select(name, y, place) for place in settings.places] if {*settings.kinds} - {"temporal"} else []
        starts[label] = Start(facts, places, select(name, y, "all") if "temporal" in settings.kinds else None)
    return starts


def _fields(start: Start, x: Tensor, settings: Settings, keep: bool) -> dict[str, np.ndarray]:
    """All kinds of fields of one output, for each input; ``keep`` spares the graph for the outputs still to come."""
    timed = x.ndim == 5
    kinds = settings.kinds
    generator = torch.Generator().manual_seed(settings.seed)
    reduction = REDUCTIONS[settings.reduce]
    places = start.places
    channels = settings.channels
    if channels == "auto":
        channels = PROJECTIONS if start.facts.constant else "sum"
    example = places[0] if places else start.total
    assert example is not None
    vectors, factor = channel_vectors(channels, example, generator)
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
            assert start.total is not None
            last = start.total[-1]

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
