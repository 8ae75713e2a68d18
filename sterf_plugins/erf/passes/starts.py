"""Where backward passes start: one forward pass of a batch, and of each layer's output what is differentiated."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...firing import FiringRates
from ...undisturbed import stateful
from ..inputs.batches import Batch, Key
from ..inputs.integers import followed
from ..outputs.capture import Output, Seen, Target, capture, detached
from ..outputs.evidence import Evidence, layout_of
from ..outputs.geometry import Geometry
from ..outputs.maps import maps_of
from ..outputs.selection import PROJECTIONS, Place, select, steps_cancel, sum_is_constant
from ..protocols import Protocol
from .cropped import cropped_convolutions
from .preparation import dtype_of
from .single import mend_batch_norms


@dataclass(frozen=True)
class Settings:
    """What to compute: arguments of ``compute_erf``, ``places`` being its ``position`` as a list.

    ``protocols`` has what is taken of outputs and gradients, by what it adds to a layer's name in the result; several of
    them are for the spatial field alone.
    """

    kinds: tuple[str, ...]
    places: list[str | Place]
    protocols: dict[str, Protocol]
    time: str
    weight: Callable[[int, int], float] | np.ndarray | None
    calls: str | int
    seed: int
    target_in: Key | None = None

    def places_of(self, tokens: bool) -> set[str | Place]:
        """Where an output is differentiated, which may be a list of ``tokens``; nowhere for the T-ERF alone, which has a sum."""
        if {*self.kinds} == {"temporal"}:
            return set()
        return {place for p in self.protocols.values() for place in p.places(self.places, tokens)}

    @property
    def rectified(self) -> bool:
        """Whether the positive parts of outputs are all that is differentiated."""
        return {p.channels for p in self.protocols.values()} == {"relu"}


@dataclass
class Facts:
    """What is known of one output.

    Attributes:
        size: (h, w) of the output as a map; (d, h, w) for videos and volumes.
        channels: C of the output as a map.
        tokens: whether it is a list of tokens, whose order in the map was not said but inferred.
        inferred: whether the order of its tokens was inferred, or that of its axes although its size, or that of a map of its
            class, is no likely one, or may be that of a matrix over tokens.
        constant: whether the sum of the channels is constant, so that its gradient is rounding noise.
        spikes: names of the spike layers that ran before it.
        follows: whether the map follows the entry of the inputs that this field is over, so that the target's row and column
            are a place in it; of several entries, such as a template and a search region, it may follow one alone.
        unclear: whether nothing shows that its tokens or axes are in the order that was inferred.
    """

    size: tuple[int, ...]
    channels: int
    tokens: bool
    inferred: bool
    constant: bool
    spikes: list[str]
    follows: bool = field(default=True, compare=False)
    unclear: bool = field(default=False, compare=False)


@dataclass
class Start:
    """Where the backward passes of one output start.

    Attributes:
        facts: what is known of the output.
        places: place -> the output there, (T, B, C).
        total: for the T-ERF, the output summed over all positions, (T, B, C).
    """

    facts: Facts
    places: dict[str | Place, Tensor]
    total: Tensor | None

    @property
    def all(self) -> list[Tensor]:
        """All that is differentiated."""
        return [*self.places.values(), *([] if self.total is None else [self.total])]

    def channels(self, protocol: Protocol) -> str | int:
        """How a protocol lets the output's channels enter; "auto" are random projections where their sum is constant."""
        if protocol.channels != "auto":
            return protocol.channels
        return PROJECTIONS if self.facts.constant else "sum"


@dataclass
class Passes:
    """What all forward passes of a model have in common: how it runs, what is looked at, and what the first ones showed.

    Attributes:
        model: the module that contains the targets.
        forward: the function to call with the inputs in the user's form: the model, or a part of it.
        targets: layers whose outputs are differentiated.
        geometry: what is known about a forward pass; its ``batch`` is replaced by that of the inputs.
        settings: what to compute.
        start_afresh: lets the model forget its state.
        seen: what the first batch showed of the model; empty for the first batch.
        known: what earlier batches showed of the outputs, by name.
        rates: what counts the spikes of the forward passes, if the model has spike layers.
    """

    model: nn.Module
    forward: Callable[[Any], Any]
    targets: list[Target]
    geometry: Geometry
    settings: Settings
    start_afresh: Callable[[], None]
    seen: Seen = field(default_factory=Seen)
    known: dict[str, Facts] = field(default_factory=dict)
    rates: FiringRates | None = None


def starts_of(passes: Passes, inputs: Batch) -> tuple[dict[Key, Tensor], dict[str, Start], dict[str, str]]:
    """Run a model that starts afresh on a batch.

    Returns:
        The entries that get maps; where backward passes start, by output; and why layers have no output.
    """
    geometry = replace(passes.geometry, batch=len(inputs))
    leaves = inputs.leaves(dtype_of(passes.model))
    with cropped_convolutions():
        outputs, failed, in_steps = outputs_of(passes, *inputs.for_model(leaves))
    if geometry.batch == 1:
        mend_batch_norms(y for output in outputs.values() for y in output.calls)
    known = {base_name(name): facts for name, facts in passes.known.items()}
    evidence = Evidence(passes.model, passes.seen.shapes)
    starts: dict[str, Start] = {}
    for name in list(outputs):
        output = outputs.pop(name)  # frees the copies of whole maps
        try:
            found, without = _starts(name, output, geometry, passes.settings, evidence, known, in_steps)
            starts |= found
            failed |= without
        except ValueError as error:
            failed[name] = str(error)
    return leaves, starts, failed


def outputs_of(
    passes: Passes, x: Any, integers: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Output], dict[str, str], bool]:
    """What ``capture`` gives of a model that starts afresh, and whether the model may loop over time."""
    passes.start_afresh()
    # A network that loops over time calls its layers once per step.
    keeps_state = bool(stateful(passes.model))
    loops = keeps_state or passes.geometry.steps is not None
    run = followed(passes.forward, integers)
    return *capture(passes.model, run, x, passes.targets, passes.seen, loops, passes.rates), keeps_state


def maps_by_name(passes: Passes, inputs: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """The maps (T, B, C, h, w) that some layers give for a batch, whose spikes are not counted, by name as in ``maps_of``."""
    outputs, _, in_steps = outputs_of(replace(passes, rates=None), *inputs.for_model({}))
    geometry, evidence = replace(passes.geometry, batch=len(inputs)), Evidence(passes.model, passes.seen.shapes)
    found: dict[str, Tensor] = {}
    for name, output in outputs.items():
        if any(name == n.partition("#")[0] for n in names):
            maps = maps_of(name, output, geometry, passes.settings.calls, evidence, in_steps)
            found |= {label: y for label, (y, _) in maps.items()}
    return found


def field_name(name: str, key: Key, keys: Collection[Key]) -> str:
    """The name of an output's field over one of the entries that get maps: ``output``, or ``output@entry`` of several."""
    return name if len(keys) == 1 else f"{name}@{key}"


def _starts(
    name: str,
    output: Output,
    geometry: Geometry,
    settings: Settings,
    evidence: Evidence,
    known: dict[str, Facts],
    in_steps: bool,
) -> tuple[dict[str, Start], dict[str, str]]:
    """Where backward passes start, by name as in ``maps_of``; and why calls have no field."""
    if not any(y.requires_grad for y in output.calls):
        raise ValueError(detached(name))
    starts, without = {}, {}
    maps = maps_of(name, output, geometry, settings.calls, evidence, in_steps)
    for label in [k for k in known if k.partition("#")[0] == name and k not in maps]:
        without[label] = (
            f"layer {label!r}: for some inputs the model calls this layer another number of times than for the first ones; "
            f"give inputs for which it does the same."
        )
    for label, (y, tokens) in maps.items():
        if known and label not in known:
            continue  # it had no field in the first batch
        if not y.requires_grad:
            without[label] = detached(label)
            continue
        over_places = bool({*settings.kinds} - {"temporal", "spatiotemporal"})
        if label not in known and over_places and settings.time == "sum" and steps_cancel(y):
            without[label] = (
                f"layer {label!r}: the sum of each channel over all time steps is constant, as behind a softmax over time, so that "
                f"its gradient is rounding noise; use time='each', or kinds=('temporal', 'spatiotemporal')."
            )
            continue
        constant = known[label].constant if label in known else sum_is_constant(y, output.target.module)
        target, size = output.target, tuple(y.shape[3:])
        likely = size[-2:] in geometry.grids() and (tokens or not evidence.matrix(size))
        seems = (likely or layout_of(target.module) == "BCHW") and evidence.resembling(
            target.name, target.module, geometry
        )
        told = target.layout or target.grid or seems
        facts = Facts(size, y.shape[2], tokens, tokens or not told, constant, output.spikes)
        if settings.rectified:
            y = y.relu()  # at each place, before a sum over places
        places = {place: select(name, y, place) for place in settings.places_of(tokens)}
        starts[label] = Start(facts, places, select(name, y, "all") if "temporal" in settings.kinds else None)
    return starts, without


def base_name(name: str) -> str:
    """The name of the output of a field: without the entry of the inputs, and the protocol."""
    return name.partition("@")[0]
