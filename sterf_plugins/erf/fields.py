"""The fields of one batch: a single forward pass for all layers, then backward passes from each of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..undisturbed import stateful
from .batches import Batch, Key
from .constant import look_for_constant_sums
from .order import wrongly_read
from .protocols import Protocol
from .selection import PROJECTIONS, channel_vectors
from .starts import Facts, Passes, Settings, Start, field_name, starts_of


def _mean(g: Tensor, channels: int) -> Tensor:
    return g.mean(channels, dtype=torch.float64)


REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {  # of a gradient, to its mean over the axis of input channels
    "abs": lambda g, axis: _mean(g.abs(), axis),
    "signed": _mean,
    "square": lambda g, axis: _mean(g.square(), axis),
    "relu": lambda g, axis: _mean(g.relu(), axis),
    "mean-relu": lambda g, axis: _mean(g, axis).relu(),
}
Add = Callable[..., None]  # adds a value (B, ...) to the sum of a kind: kind, index in the sum, value, shape of the sum
KINDS = ("spatial", "temporal", "spatiotemporal", "frames", "volume")


@dataclass
class BatchFields:
    """What ``fields_of`` finds in one batch; all mappings are in order of execution.

    Attributes:
        values: output name -> kind -> float64 array: "spatial" (B, H, W), "temporal" (B, T), "spatiotemporal" (B, T, T,
            H, W), "frames" (B, D), "volume" (B, D, H, W). Where several entries of the batch get maps, the names are
            ``output@entry``.
        facts: output name -> what is known of it.
        failed: layer -> why its field cannot be computed.
    """

    values: dict[str, dict[str, np.ndarray]]
    facts: dict[str, Facts]
    failed: dict[str, str]


def fields_of(passes: Passes, inputs: Batch) -> BatchFields:
    """Compute the fields of all targets for one batch, before which the model starts afresh.

    Raises:
        ValueError: no layer has a field; the message says why.
    """
    batch, settings = len(inputs), passes.settings
    if batch == 1 and passes.geometry.steps is None and stateful(passes.model):
        inputs = Batch.joined([inputs, inputs])  # else any number of steps would divide by the batch
    leaves, starts, failed = starts_of(passes, inputs)
    if not passes.known:
        failed |= look_for_constant_sums(passes, inputs, starts)
    if not starts:
        reasons = list(dict.fromkeys(failed.values()))
        raise ValueError(" ".join(reasons[:3]))
    if (
        settings.time == "each"
        and inputs.steps is None
        and {1} == {len(y) for s in starts.values() for y in s.places.values()}
    ):
        raise ValueError(
            "`time` is 'each', but neither `inputs` nor the outputs of the layers have a time axis. Give (T, N, C, H, W), or "
            "time_steps=T to repeat the images, to a model that takes it; or leave it out."
        )
    entries = {
        field_name(name, key, leaves) + suffix: (name, key)
        for name in starts
        for key in leaves
        for suffix in settings.protocols
    }
    facts = {label: starts[name].facts for label, (name, _) in entries.items()}
    results: dict[str, dict[str, np.ndarray]] = {}
    # Outputs go from the last to the first and are dropped after use, which frees their part of the graph at once.
    for name in reversed(list(starts)):
        fields = _fields(starts.pop(name), leaves, inputs.steps, settings, keep=bool(starts))
        for (key, suffix), kinds in fields.items():
            results[field_name(name, key, leaves) + suffix] = {kind: value[:batch] for kind, value in kinds.items()}
    if not passes.known:
        wrong, followed = wrongly_read(passes, inputs, results, facts)
        failed |= wrong
        target_in = settings.target_in
        facts = {
            label: replace(facts[label], follows=key in followed.get(name, [key if target_in is None else target_in]))
            for label, (name, key) in entries.items()
            if name not in wrong
        }
        if not facts:
            raise ValueError(" ".join(list(failed.values())[:3]))
    return BatchFields({name: results[name] for name in facts}, facts, failed)


def _fields(
    start: Start, leaves: dict[Key, Tensor], steps: int | None, settings: Settings, keep: bool
) -> dict[tuple[Key, str], dict[str, np.ndarray]]:
    """By leaf and by protocol, all kinds of fields of one output, for each input.

    Protocols that differentiate the same numbers share a backward pass.

    Args:
        start: where the backward passes start.
        leaves: entries of the batch, (T, B, C, H, W) or without time; (B, C, D, H, W) with slices.
        steps: T of the leaves.
        settings: what to compute.
        keep: whether to spare the graph for the outputs still to come.
    """
    shared: dict[tuple[str | int, tuple], dict[str, Protocol]] = {}
    for suffix, protocol in settings.protocols.items():
        channels = protocol.channels
        if channels == "auto":
            channels = PROJECTIONS if start.facts.constant else "sum"
        places = tuple(protocol.places(settings.places, start.facts.tokens))
        shared.setdefault((channels, places), {})[suffix] = protocol
    fields: dict[tuple[Key, str], dict[str, np.ndarray]] = {}
    for i, ((channels, places), protocols) in enumerate(shared.items()):
        outputs = [start.places[place] for place in places if start.places]
        retain = keep or i + 1 < len(shared)
        fields |= _fields_of_sums(start.total, outputs, channels, protocols, leaves, steps, settings, retain)
    return fields


def _fields_of_sums(
    total: Tensor | None,
    places: list[Tensor],
    channels: str | int,
    protocols: dict[str, Protocol],
    leaves: dict[Key, Tensor],
    steps: int | None,
    settings: Settings,
    keep: bool,
) -> dict[tuple[Key, str], dict[str, np.ndarray]]:
    """What ``_fields`` returns, for protocols that differentiate the same sums of the channels at the same places."""
    timed = steps is not None
    kinds = settings.kinds
    generator = torch.Generator().manual_seed(settings.seed)
    reduction = REDUCTIONS[next(iter(protocols.values())).reduce]
    if channels == "relu":
        places, total, channels = [y.relu() for y in places], None if total is None else total.relu(), "sum"
    example = places[0] if places else total
    assert example is not None
    vectors, factor = channel_vectors(channels, example, generator)
    # A sum to differentiate, and what takes its gradient with respect to a leaf.
    jobs: list[tuple[Tensor, Callable[[Tensor, Add], None]]] = []
    sums: dict[tuple[Key, str], dict[str, Tensor]] = {(key, suffix): {} for key in leaves for suffix in protocols}
    first = next(iter(protocols))

    def add_to(key: Key) -> Add:
        def add(kind: str, index: tuple, value: Tensor, shape: tuple[int, ...] = (), suffix: str = first) -> None:
            shape, found = shape or tuple(value.shape[1:]), sums[key, suffix]
            if kind not in found:
                found[kind] = torch.zeros(len(value), *shape, dtype=torch.float64, device=value.device)
            found[kind][(slice(None), *index)] += value

        return add

    share = factor / max(1, len(places))  # of one place and one vector in the field
    over_places = bool({"spatial", "frames", "volume"} & {*kinds})
    each_step = "spatiotemporal" in kinds or (over_places and settings.time == "each")
    for vector in vectors:
        for y in places:
            if each_step:
                jobs.extend(_each_step(y, vector, steps, settings, reduction, share))
            if over_places and settings.time == "sum":

                def spatial(g: Tensor, add: Add, count: int = y.shape[0]) -> None:
                    g = g.sum(0) if timed else g  # over input steps, before the absolute value
                    for suffix, protocol in protocols.items():
                        scale = share / count * (g.shape[1] if protocol.summed else 1)
                        value = REDUCTIONS[protocol.reduce](g, 1) * scale
                        _add_places(partial(add, suffix=suffix), kinds, value)

                jobs.append(((y * vector).sum(), spatial))
        if "temporal" in kinds:
            assert total is not None
            last = total[-1]

            def temporal(g: Tensor, add: Add) -> None:
                mass = reduction(g, 2).flatten(2).sum(2)  # (T, B)
                add("temporal", (), mass.flip(0).T * factor)

            jobs.append(((last * vector).sum(), temporal))
    for i, (target, use) in enumerate(jobs):
        retain = keep or i + 1 < len(jobs)
        gradients = torch.autograd.grad(target, list(leaves.values()), retain_graph=retain, allow_unused=True)
        for (key, x), g in zip(leaves.items(), gradients, strict=True):
            use(torch.zeros_like(x) if g is None else g, add_to(key))
    return {at: {kind: found[kind].cpu().numpy() for kind in kinds if kind in found} for at, found in sums.items()}


def _add_places(add: Add, kinds: tuple[str, ...], value: Tensor) -> None:
    """Add a field over places, (B, H, W) or (B, D, H, W): its sum over slices, its sum over each slice, and itself."""
    if "spatial" in kinds:
        add("spatial", (), value.sum(1) if value.ndim == 4 else value)
    if "frames" in kinds:
        add("frames", (), value.sum((-2, -1)))
    if "volume" in kinds:
        add("volume", (), value)


def _each_step(y, vector, steps, settings, reduction, share):
    """A job for each output step: the ST-ERF, and the S-ERF that weighs |dy[t]/dx[t - lag]| by w(t, lag)."""
    count = y.shape[0]
    for t in range(count):
        # An output without a time axis belongs to the last step.
        out = t if steps is None or count == steps else steps - 1

        def use(g: Tensor, add: Add, out: int = out) -> None:
            g = reduction(g, 2 if steps else 1)  # (T, B, H, W) or (B, H, W)
            for lag in range(out + 1 if steps else 1):
                step = g[out - lag] if steps else g
                if "spatiotemporal" in settings.kinds:
                    flat = step.sum(1) if step.ndim == 4 else step
                    add("spatiotemporal", (out, lag), flat * share, (steps, steps, *flat.shape[1:]))
                if settings.time == "each":
                    weight = weight_at(settings.weight, out + 1, lag)
                    _add_places(add, settings.kinds, step * share * weight / count)

        yield (y[t] * vector).sum(), use


def weight_at(weight: Callable[[int, int], float] | np.ndarray | None, t: int, lag: int) -> float:
    """The factor w(t, lag), with t counted from 1 as in the papers; 1 where ``weight`` is ``None``."""
    if weight is None:
        return 1.0
    return float(weight(t, lag)) if callable(weight) else float(weight[t - 1, lag])
