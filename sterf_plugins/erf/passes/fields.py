"""The fields of one batch: a single forward pass for all layers, then backward passes from each of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...undisturbed import stateful
from ..inputs.batches import Batch, Key
from ..inputs.sizer import out_of_memory
from ..outputs.selection import channel_vectors
from ..protocols import Protocol
from .constant import look_for_constant_sums
from .order import wrongly_read
from .separate import check_separate, of_first_input
from .single import normalises_over_inputs
from .starts import Facts, Passes, Settings, Start, base_name, field_name, starts_of


def _mean(g: Tensor, channels: int) -> Tensor:
    return g.mean(channels, dtype=torch.float64)


REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {  # of a gradient, to its mean over the axis of input channels
    "abs": lambda g, axis: _mean(g.abs(), axis),
    "signed": _mean,
    "square": lambda g, axis: _mean(g.square(), axis),
    "relu": lambda g, axis: _mean(g.relu(), axis),
    "mean-relu": lambda g, axis: _mean(g, axis).relu(),
}
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
    found, entries = _forth_and_back(passes, inputs, batch)
    results, facts, failed = found.values, found.facts, found.failed
    if not passes.known:
        outputs = {base_name(label): fact for label, fact in facts.items()}
        known, without = look_for_constant_sums(passes, inputs, outputs)
        failed |= without
        facts = {label: known[base_name(label)] for label in facts if base_name(label) in known}
        if any(fact != outputs[name] for name, fact in known.items()):  # once more, by other sums
            results = _forth_and_back(replace(passes, known=known, rates=None), inputs, batch)[0].values
        wrong, followed, unclear = wrongly_read(passes, inputs, results, facts)
        failed |= wrong
        target_in = settings.target_in
        facts = {
            label: replace(
                fact,
                follows=key in followed.get(name, [key if target_in is None else target_in]),
                unclear=name in unclear,
            )
            for label, fact in facts.items()
            for name, key in [entries[label]]
            if name not in wrong
        }
        if not facts:
            raise ValueError(_first(failed))
    return BatchFields({name: results[name] for name in facts}, facts, failed)


def _forth_and_back(passes: Passes, inputs: Batch, batch: int) -> tuple[BatchFields, dict[str, tuple[str, Key]]]:
    """The fields of the first ``batch`` of some inputs: a forward pass, and backward passes before any other forward pass.

    A model may change its state in place, and with it numbers that backward passes need.

    Returns:
        The fields; and by their names the name of the output and the entry of the batch.
    """
    settings = passes.settings
    leaves, starts, failed = starts_of(passes, inputs)
    if not starts:
        raise ValueError(_first(failed))
    if batch > 1 and normalises_over_inputs(y for s in starts.values() for y in s.all):
        raise ValueError(
            "a BatchNorm takes mean and variance from all inputs of a pass, as the model's forward pass puts it into training "
            "mode, so that the field of each input would have parts of the others'; give batch_size=1, or leave it in eval mode."
        )
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
    unchecked = batch > 1 and not passes.seen.separate
    first = {name: y.detach() for name, y in of_first_input(starts).items()} if unchecked else {}
    results: dict[str, dict[str, np.ndarray]] = {}
    # Outputs go from the last to the first and are dropped after use, which frees their part of the graph at once.
    for name in reversed(list(starts)):
        try:
            fields = _fields(starts.pop(name), leaves, inputs.steps, settings, keep=bool(starts))
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            failed[name] = f"layer {name!r}: the backward pass from it fails: {str(error).splitlines()[0]}"
            continue
        for (key, suffix), kinds in fields.items():
            results[field_name(name, key, leaves) + suffix] = {kind: value[:batch] for kind, value in kinds.items()}
    if not results:
        raise ValueError(_first(failed))
    if unchecked:
        check_separate(passes, inputs, first)
    facts = {label: fact for label, fact in facts.items() if label in results}
    return BatchFields(results, facts, failed), entries


def _first(failed: dict[str, str]) -> str:
    """The first few reasons why layers have no field."""
    return " ".join(list(dict.fromkeys(failed.values()))[:3])


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
        places = tuple(protocol.places(settings.places, start.facts.tokens))
        shared.setdefault((start.channels(protocol), places), {})[suffix] = protocol
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
    if channels == "relu":
        places, total, channels = [y.relu() for y in places], None if total is None else total.relu(), "sum"
    example = places[0] if places else total
    assert example is not None
    vectors, factor = channel_vectors(channels, example, torch.Generator().manual_seed(settings.seed))
    jobs = list(_jobs(total, places, vectors, factor, protocols, steps, settings))
    sums = {key: _Sums({suffix: {} for suffix in protocols}) for key in leaves}
    for i, (target, use) in enumerate(jobs):
        retain = keep or i + 1 < len(jobs)
        gradients = torch.autograd.grad(target, list(leaves.values()), retain_graph=retain, allow_unused=True)
        for (key, x), g in zip(leaves.items(), gradients, strict=True):
            use(torch.zeros_like(x) if g is None else g, sums[key])
    return {
        (key, suffix): {kind: found[kind].cpu().numpy() for kind in settings.kinds if kind in found}
        for key in leaves
        for suffix, found in sums[key].fields.items()
    }


@dataclass
class _Sums:
    """The fields over one leaf, which grow with each backward pass: by protocol (its suffix) and kind, (B, ...)."""

    fields: dict[str, dict[str, Tensor]]

    def add(self, suffix: str, kind: str, value: Tensor, index: tuple = (), shape: tuple[int, ...] = ()) -> None:
        """Add a value (B, ...) to a field, or to the part at an index of a field (B, *shape)."""
        found = self.fields[suffix]
        if kind not in found:
            size = (len(value), *(shape or value.shape[1:]))
            found[kind] = torch.zeros(size, dtype=torch.float64, device=value.device)
        found[kind][(slice(None), *index)] += value

    def add_places(self, suffix: str, kinds: tuple[str, ...], value: Tensor) -> None:
        """Add to a field over places, (B, H, W) or (B, D, H, W): its sum over slices, its sum over each slice, and itself."""
        if "spatial" in kinds:
            self.add(suffix, "spatial", value.sum(1) if value.ndim == 4 else value)
        if "frames" in kinds:
            self.add(suffix, "frames", value.sum((-2, -1)))
        if "volume" in kinds:
            self.add(suffix, "volume", value)


Job = tuple[Tensor, Callable[[Tensor, _Sums], None]]  # what to differentiate, and what takes its gradient over a leaf


def _jobs(
    total: Tensor | None,
    places: list[Tensor],
    vectors: Iterable[Tensor],
    factor: float,
    protocols: dict[str, Protocol],
    steps: int | None,
    settings: Settings,
) -> Iterator[Job]:
    """A job for each backward pass; all kinds but those over places are of a single protocol."""
    share = factor / max(1, len(places))  # of one place and one vector in the field
    over_places = bool({"spatial", "frames", "volume"} & {*settings.kinds})
    each_step = "spatiotemporal" in settings.kinds or (over_places and settings.time == "each")
    suffix, reduce = next((suffix, protocol.reduce) for suffix, protocol in protocols.items())
    for vector in vectors:
        for y in places:
            if each_step:
                yield from _each_step(y, vector, steps, settings, suffix, reduce, share)
            if over_places and settings.time == "sum":

                def spatial(g: Tensor, sums: _Sums, count: int = y.shape[0]) -> None:
                    g = g if steps is None else g.sum(0)  # over input steps, before the absolute value
                    for suffix, protocol in protocols.items():
                        scale = share / count * (g.shape[1] if protocol.summed else 1)
                        sums.add_places(suffix, settings.kinds, REDUCTIONS[protocol.reduce](g, 1) * scale)

                yield (y * vector).sum(), spatial
        if "temporal" in settings.kinds:
            assert total is not None

            def temporal(g: Tensor, sums: _Sums) -> None:
                mass = REDUCTIONS[reduce](g, 2).flatten(2).sum(2)  # (T, B)
                sums.add(suffix, "temporal", mass.flip(0).T * factor)

            yield (total[-1] * vector).sum(), temporal


def _each_step(
    y: Tensor, vector: Tensor, steps: int | None, settings: Settings, suffix: str, reduce: str, share: float
) -> Iterator[Job]:
    """A job for each output step: the ST-ERF, and the S-ERF that weighs |dy[t]/dx[t - lag]| by w(t, lag)."""
    count = y.shape[0]
    for t in range(count):
        # An output without a time axis belongs to the last step.
        out = t if steps is None or count == steps else steps - 1

        def use(g: Tensor, sums: _Sums, out: int = out) -> None:
            g = REDUCTIONS[reduce](g, 2 if steps else 1)  # (T, B, H, W) or (B, H, W)
            for lag in range(out + 1 if steps else 1):
                step = g[out - lag] if steps else g
                if "spatiotemporal" in settings.kinds:
                    assert steps is not None
                    flat = step.sum(1) if step.ndim == 4 else step
                    sums.add(suffix, "spatiotemporal", flat * share, (out, lag), (steps, steps, *flat.shape[1:]))
                if settings.time == "each":
                    weight = weight_at(settings.weight, out + 1, lag)
                    sums.add_places(suffix, settings.kinds, step * share * weight / count)

        yield (y[t] * vector).sum(), use


def weight_at(weight: Callable[[int, int], float] | np.ndarray | None, t: int, lag: int) -> float:
    """The factor w(t, lag), with t counted from 1 as in the papers; 1 where ``weight`` is ``None``."""
    if weight is None:
        return 1.0
    return float(weight(t, lag)) if callable(weight) else float(weight[t - 1, lag])
