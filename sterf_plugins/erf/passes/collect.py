"""All inputs of a computation, batch by batch, from what is asked for to the running estimates."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...checks import entries, one_of
from ...firing import FiringRates, neuron_layers
from ..calibrate import calibrated
from ..inputs.batches import Batch, Key, Reading, check_shapes
from ..inputs.integers import followed
from ..inputs.progress import Progress
from ..inputs.sizer import Sizer
from ..outputs.capture import Seen, Target
from ..outputs.geometry import Geometry, possible_strides, prefix_tokens
from ..protocols import Protocol
from .fields import KINDS, fields_of
from .preparation import (
    check_axes,
    check_size,
    check_values,
    check_weights,
    dtype_of,
    forward_of,
    guarded,
    inner_steps,
    prepared,
)
from .running import Running
from .single import mixes_inputs
from .starts import Facts, Passes, Settings

LEAST_INPUTS = 8  # inputs that must be done before a relative error is trusted


@dataclass(frozen=True)
class Request:
    """The checked arguments of ``compute_erf``."""

    model: nn.Module
    names: list[str]
    places: list[Any]
    kinds: Any
    protocol: str | None
    protocols: dict[str, Protocol]
    time: str
    weight: Any
    calls: str | int
    aggregate: str
    target: str
    batch_size: int | None
    tolerance: float | None
    seed: int
    calibrate: bool | str
    forward: Callable[[nn.Module, Any], Any] | None
    reading: Reading
    norms: list[Any]  # BatchNorms that get the statistics of the first inputs
    target_in: Key | None

    def settings(self, inputs: Batch) -> Settings:
        """What to compute for inputs of this shape, against which model, ``axes``, ``kinds`` and ``weight`` are checked."""
        check_axes(self.model, inputs, self.reading.axes)
        _check_weight(self.weight, inputs.steps)
        kinds = _kinds(self.kinds, inputs)
        if self.target_in is not None:
            one_of("target_in", self.target_in, tuple(inputs.entries))
        for size in inputs.sizes:
            check_size(self.model, size)
        return Settings(
            kinds, self.places, self.protocols, self.time, self.weight, self.calls, self.seed, self.target_in
        )


def collect(
    request: Request,
    stream: Iterator[Batch],
    total: int | None,
    sample: Batch | None,
    targets: list[Target],
    running: Running,
    device: str | torch.device | None,
    progress: bool | Callable[[int, int | None], None],
) -> None:
    """Run all inputs through the model and add their fields to ``running``.

    Args:
        request: what is asked for.
        stream: the inputs, in batches; ``total`` is their number where it is known.
        total: see above.
        sample: inputs that give BatchNorms their statistics; ``None`` if all keep their own.
        targets: the layers.
        running: what the fields are added to.
        device: where to compute.
        progress: as in ``compute_erf``.
    """
    model, names, tolerance = request.model, request.names, request.tolerance
    check_weights(model)
    strides, prefix = possible_strides(model), prefix_tokens(model)
    rates = FiringRates(model, running.rates) if neuron_layers(model) else None
    settings: Settings | None = None
    seen = Seen()
    skip = 0
    try:
        with (
            prepared(model, device) as (compute_device, start_afresh),
            Progress(progress, total) as bar,
            ExitStack() as stack,
        ):
            dtype = dtype_of(model) if next(model.parameters(), None) is not None else None
            sizer = Sizer(1 if mixes_inputs(model) else request.batch_size, compute_device, model.parameters())
            for inputs in sizer.regroup(stream):
                check_values(inputs)
                shape = inputs.shapes()
                forward = forward_of(model, names, request.forward, inputs.form)
                if settings is None:
                    settings = request.settings(inputs)
                    sizer.extra = _bytes_of_results(settings.kinds, inputs) * len(targets)
                    skip = running.resume(partial(_identity, request, settings, targets, shape, inputs, total))
                    running.shape, running.kinds = shape, settings.kinds
                    bar.update(skip)
                    if sample is not None:
                        sample = sample.to(compute_device, dtype)
                        running.calibrated = stack.enter_context(_calibrated(request, forward, sample))
                check_shapes(running.shape, shape)
                skipped = min(skip, len(inputs))
                skip -= skipped
                inputs = inputs.narrow(skipped, len(inputs) - skipped).to(compute_device, dtype)
                # `fields_of` puts in the batch of each part.
                sizer.steps = steps = inputs.steps or inner_steps(model)
                geometry = Geometry(tuple(inputs.sizes), 0, steps, strides, prefix)
                run = guarded(forward, inputs)
                passes = Passes(model, run, targets, geometry, settings, start_afresh, seen, running.facts, rates)
                for count, fields in sizer.run(inputs, partial(fields_of, passes)):
                    running.add(fields)
                    running.cut, running.autocast, running.drawn = seen.cut, seen.autocast, seen.drawn
                    targets[:] = [t for t in targets if t.name not in running.failed]
                    bar.update(count)
                    if tolerance is not None and running.count >= LEAST_INPUTS and running.error() < tolerance:
                        return
    except KeyboardInterrupt:
        running.save()
        raise


def _bytes_of_results(kinds: tuple[str, ...], inputs: Batch) -> int:
    """Bytes of the float64 ST-ERF of one layer and one input; those of all other fields are few."""
    if not inputs.steps or "spatiotemporal" not in kinds:
        return 0
    return 8 * inputs.steps**2 * sum(map(math.prod, inputs.sizes))


@contextmanager
def _calibrated(request: Request, forward: Callable[[Any], Any], sample: Batch) -> Iterator[dict[str, int]]:
    """BatchNorms with the statistics of a sample meanwhile; gives how many have them, of how many inputs, and how many not."""
    x, integers = sample.for_model(sample.leaves(dtype_of(request.model)))
    with calibrated(request.norms, followed(guarded(forward, sample), integers), x) as lacking:
        told = dict(norms=len(request.norms) - lacking, inputs=len(sample))
        yield told | (dict(initial=lacking) if lacking else {})


def _kinds(kinds: str | Iterable[str] | None, inputs: Batch) -> tuple[str, ...]:
    """The kinds that are asked for, in the order of ``KINDS``, checked against the inputs."""
    possible = ["spatial"]
    possible += ["temporal", "spatiotemporal"] if inputs.steps else []
    possible += ["frames", "volume"] if len(inputs.sizes[0]) == 3 else []
    if kinds is None:
        return tuple(k for k in KINDS if k in possible and not (inputs.steps and k in ("frames", "volume")))
    chosen = (kinds,) if isinstance(kinds, str) else entries("kinds", kinds)
    for kind in chosen:
        one_of("kinds", kind, KINDS)
    if not chosen:
        raise ValueError(f"`kinds` is empty; give any of {', '.join(KINDS)}.")
    for axis, group, example in (
        ("time", ("temporal", "spatiotemporal"), "(T, N, C, H, W), or time_steps=T to repeat the images, to a model that takes it"),
        ("frame", ("frames", "volume"), "videos with axes='NCTHW', or volumes with axes='NCDHW'"),
    ):  # fmt: skip
        lacking = [k for k in chosen if k in group and k not in possible]
        if lacking:
            raise ValueError(
                f"`kinds` asks for {', '.join(lacking)}, but `inputs` have no {axis} axis. Give {example}."
            )
    return tuple(k for k in KINDS if k in chosen)


def _check_weight(weight: Any, steps: int | None) -> None:
    if weight is None:
        return
    if not steps:
        raise ValueError("`weight` needs inputs with a time axis, (T, N, C, H, W): without it there are no lags.")
    if not callable(weight) and np.shape(weight) != (steps, steps):
        raise ValueError(
            f"`weight` has shape {np.shape(weight)}; it must be a function of t and lag, or ({steps}, {steps})."
        )


def told_weight(weight: Any) -> Any:
    """The argument ``weight`` of ``compute_erf``, as JSON can hold it."""
    return "function" if callable(weight) else np.asarray(weight, object).tolist()


def _identity(
    request: Request,
    settings: Settings,
    targets: list[Target],
    shape: dict[str, list[int]],
    inputs: Batch,
    total: int | None,
) -> dict[str, Any]:
    """What has to be the same for a state on disk to be continued: arguments, weights and the first input."""
    first = [v.double() for v in inputs.narrow(0, 1).entries.values() if isinstance(v, Tensor)]
    weights = [t.double() for t in (*request.model.parameters(), *request.model.buffers()) if t.is_floating_point()]
    sums = [float(t.sum()) for v in first for t in (v, v.abs())]
    sums += [sum(float(f(w).sum()) for w in weights) for f in (torch.Tensor.abs, torch.Tensor.square)]
    names = ("protocol", "time", "calls", "seed", "aggregate", "target", "calibrate")
    options = {name: getattr(request, name) for name in names}
    options |= dict(taken=[[p.channels, p.reduce] for p in request.protocols.values()])
    position = str(settings.places)
    return dict(
        layers=[[t.name, t.grid, getattr(t.layout, "__qualname__", str(t.layout))] for t in targets],
        shape=shape,
        wrt=str(request.reading.wrt),
        target_in=str(request.target_in),
        axes=str(request.reading.axes),
        forward=getattr(request.forward, "__qualname__", str(type(request.forward))),
        kinds=list(settings.kinds),
        position=position,
        weight=told_weight(settings.weight),
        total=total,
        sums=sums,
        facts=list(Facts.__annotations__),  # of a state of another version they would be others
        **options,
    )
