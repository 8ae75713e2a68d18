"""Whether a layer's tokens are in the order that has been inferred, seen by what changes when a part of the input does.

In the right order, a map changes more at the place of a changed part than elsewhere, compared with what other parts change,
also behind attention that looks everywhere. This asks for no gradient, and one forward pass for each part serves all layers.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor, nn

from ..inputs.axes import Axes
from ..inputs.batches import Batch, Key
from ..outputs.evidence import Evidence
from ..outputs.layouts import prefix_counts
from ..outputs.selection import cell
from .flaws import densest_at, elsewhere, misread, near_target
from .starts import Facts, Passes, Settings, base_name, maps_by_name

PARTS = 4  # into which an image is divided along each axis
# Parts along slices, rows and columns that are changed, one by one; and others, with which a layer is looked at once more
# before it is refused, as the changes of a network that mixes all places may seem to be elsewhere by chance.
_CHANGED = ((0, 2, 1, 3), (0, 1, 2, 3), (1, 3, 0, 2))
_CHANGED_AGAIN = ((1, 3, 0, 2), (0, 1, 2, 3), (2, 0, 3, 1))
# What a part changes more than others, as a share of all that it changes: by itself enough to tell an order, and enough if
# it is in a few cells, at most a fifth of them. Else it hardly depends on the place which field is taken, as in attention that
# looks everywhere, or it is without any order, as in a mixer with random weights.
_CLEAR, _LEAST, _FEW = 0.3, 0.05, 0.2
_ALONG = 0.3  # correlation of where a map changes with where the input does, along each axis, at least
# By how much of the number of frames the centre of what changes in a video moves from part to part, if it moves.
_STILL = 0.05
_NEAR = 0.6  # share of these changes that lies at the part's place, with a margin of one cell, at least
_SAME = 0.75  # correlation of where the parts change a map in two images, at least, if a map is refused
_BETTER = 1.15  # by how much changes fit the parts better where tokens are counted from others on, if they have to be


def wrongly_read(
    passes: Passes, inputs: Batch, results: dict[str, dict[str, np.ndarray]], facts: dict[str, Facts]
) -> tuple[dict[str, str], dict[str, list[Key]], set[str]]:
    """Which outputs have no field, since their axes or tokens are in another order than that inferred, and what outputs follow.

    Of a single entry of the inputs, only those are looked at whose field does not show already that it is that of its target.

    Returns:
        Why outputs have no field, by name; by name, if there are several entries, those that the output's map follows; and
        the outputs of which nothing shows whether they are in the order inferred.
    """
    settings, evidence = passes.settings, Evidence(passes.model, passes.seen.shapes)
    queries = {name for name, fact in facts.items() if _may_be_queries(passes, fact, len(inputs))}
    doubtful, wrong = _doubtful(settings, evidence, results, facts, queries)
    asked = inputs.several and settings.target_in is None
    several = {base_name(name): fact for name, fact in facts.items()} if asked else {}
    names = {**several, **doubtful}
    if not names:
        return wrong, {}, set()

    drawn = passes.seen.drawn

    def maps(seed: int, batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(seed)  # else random masks would differ
        return maps_by_name(passes, batch, names)

    with torch.no_grad():
        prefixed = {name for name, fact in names.items() if _prefixed(evidence, name, fact)}
        by_entry = orders(names, partial(maps, 0), inputs, prefixed, drawn)
        found = {name: any_of(answers.values()) for name, answers in by_entry.items()}
        for seed in (1, 2) if drawn else ():  # tokens that are chosen at random may be in order by chance
            again = orders(doubtful, partial(maps, seed), inputs, prefixed, drawn)
            found |= {name: False for name, answers in again.items() if any_of(answers.values()) is False}
    likely = evidence.grids()
    learnt = _learnt_tokens(passes.model, passes.seen.shapes.values())
    followed = {name: [key for key, answer in by_entry[name].items() if answer] for name in several}
    unclear = {name: fact for name, fact in doubtful.items() if found[name] is None}
    # What hardly depends on the place may be queries of a decoder, which are learnt, or channels.
    refused = [name for name in doubtful if found[name] is False]
    refused += [name for name, f in unclear.items() if f.size[-2:] not in likely and math.prod(f.size) in learnt]
    refused += [name for name in unclear if queries & {label for label in facts if base_name(label) == name}]
    refused += [name for name, f in unclear.items() if _may_be_channels(passes, evidence, name, f, len(inputs))]
    wrong |= {name: misread(name, doubtful[name].size) for name in doubtful if name in refused}
    return wrong, followed, {*unclear} - {*refused}


def _doubtful(
    settings: Settings,
    evidence: Evidence,
    results: dict[str, dict[str, np.ndarray]],
    facts: dict[str, Facts],
    queries: Collection[str],
) -> tuple[dict[str, Facts], dict[str, str]]:
    """The outputs whose order was inferred, and whose field does not show it; and why others are in another one.

    Of what may be ``queries`` no field shows it: a query may look near its number's place by chance.
    """
    doubtful: dict[str, Facts] = {}
    clear, shifted = set(), set()  # by the field itself
    for name, fact in facts.items():
        if not fact.inferred or settings.places == ["all"] or {*settings.kinds} == {"temporal"}:
            continue
        if math.prod(fact.size) <= 4 and name not in queries:
            continue
        doubtful[base_name(name)] = fact
        field = results[name].get("spatial")
        if len(settings.places) > 1 or field is None or (not fact.tokens and evidence.matrix(fact.size)):
            continue  # the corners of a matrix over tokens are those of the image
        field = field.mean(0)
        if not field.any() or not np.isfinite(field).all():
            continue  # there is nothing to see: of these inputs, or at all, which `flaw` tells in the end
        wanted = {place for p in settings.protocols.values() for place in p.places(settings.places, fact.tokens)}
        cells = [cell(name, place, fact.size) for place in (settings.places[0], *wanted)]
        targets = [at[-2:] for at in cells if at is not None]
        if not targets:
            continue
        if fact.tokens and all(elsewhere(field, fact.size[-2:], at) for at in targets):
            shifted.add(base_name(name))
        elif name in queries or (fact.tokens and not densest_at(field, fact.size[-2:], targets[0])):
            continue
        elif near_target(field, fact.size[-2:], targets[0]):
            clear.add(base_name(name))
    wrong = {name: misread(name, doubtful[name].size) for name in shifted - clear}
    return {name: fact for name, fact in doubtful.items() if name not in clear | shifted}, wrong


def _prefixed(evidence: Evidence, name: str, fact: Facts) -> bool:
    """Whether some of the tokens that a layer gives are taken for others than those of the image, such as a class token."""
    shape = evidence.shapes.get(name.partition("#")[0].partition("@")[0])
    return fact.tokens and shape is not None and math.prod(fact.size) not in shape


def _may_be_queries(passes: Passes, fact: Facts, batch: int) -> bool:
    """Whether an output has as many tokens as the model begins with, whatever the inputs are, ``batch`` of them.

    Such tokens may have been taken for channels, where one for each of their channels fits a map.
    """
    counts = {fact.channels, *(math.prod(fact.size) + prefix for prefix in prefix_counts(passes.geometry))}
    return fact.tokens and bool(counts & (passes.seen.queries - {1, batch}))


def _may_be_channels(passes: Passes, evidence: Evidence, name: str, fact: Facts, batch: int) -> bool:
    """Whether channels may have been taken for tokens, as behind a layer that mixes tokens as others mix channels.

    So it may be where neither a norm nor the input has as many tokens, nor a convolution a map of as many places, or where
    types of modules dispute the order of the axes. A map may be one of windows, classes or other numbers where neither a
    stride nor a convolution makes one of its size.
    """
    module = name.partition("#")[0]
    shape = evidence.shapes.get(module)
    if not fact.tokens:
        size = fact.size[-2:]
        made = size in {(1, 1), *passes.geometry.grids(), *evidence.grids()}
        return not made or not passes.geometry.may_be_map(size)
    if shape is None:
        return False
    known, places = evidence.normed(), {math.prod(grid) for grid in evidence.grids()}
    if passes.geometry.signal:
        known, places = known | {size[-1] for size in passes.geometry.sizes}, places | evidence.lengths()
    tokens = shape.numel() // (batch * (passes.geometry.steps or 1) * fact.channels)
    unknown = tokens not in known and math.prod(fact.size) not in places
    return (bool(known) and unknown) or evidence.disputed(module)


def _learnt_tokens(model: nn.Module, shapes: Iterable[Size]) -> set[int]:
    """Numbers of tokens in the model's tables of learnt ones, such as the queries of a decoder.

    What has the shape of such a table by chance, as a table of attention biases for each head, is no output of any module.
    """
    tables = [m for m in model.modules() if not isinstance(m, nn.Linear)]
    learnt = {
        (p.shape[:-1].numel(), p.shape[-1]) for m in tables for p in m.parameters(recurse=False) if p.ndim in (2, 3)
    }
    seen = {(n, shape[-1]) for shape in shapes if len(shape) in (2, 3) for n in shape[:-1]}
    return {n for n, _ in learnt & seen}


def orders(
    names: Iterable[str],
    maps: Callable[[Batch], dict[str, Tensor]],
    inputs: Batch,
    prefixed: Collection[str] = (),
    drawn: bool = False,
) -> dict[str, dict[Key, bool | None]]:
    """Whether each of some layers has its tokens in the order of each entry; ``None`` where that cannot be told.

    Args:
        names: the layers.
        maps: the function that runs the model, and gives each layer's map (T, B, C, h, w) or (1, B, C, d, h, w).
        inputs: some inputs, whose entries with maps are changed.
        prefixed: the layers that have other tokens than those of the image, which may be shifted by these.
        drawn: whether the model draws random numbers, as for masks: what is masked shows in no image what it changes.
    """
    before = maps(inputs)
    found: dict[str, dict[Key, bool | None]] = {name: {} for name in names}

    def refused(key: Key) -> list[str]:
        return [name for name, answers in found.items() if answers.get(key, False) is False]

    for key in inputs.axes:
        changed: list[dict[str, Tensor]] = []
        for places in (_CHANGED, _CHANGED_AGAIN):
            asked = refused(key)
            changed = [maps(copy) for copy in _changed(inputs, key, places)] if asked else []
            for name in asked:
                found[name][key] = _follows(before[name], [m[name] for m in changed], places, name in prefixed)
        if not drawn and (asked := refused(key)):
            turned = inputs.apply(partial(_turned, inputs.axes[key], key))
            other, others = maps(turned), [maps(copy) for copy in _changed(turned, key, _CHANGED_AGAIN)]
            for name in asked:
                y, z = (_compared(b[name], [m[name] for m in ms]) for b, ms in ((before, changed), (other, others)))
                found[name][key] = False if _alike(y, z) else None
    return found


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Of several entries, one that a layer's tokens follow is enough; ``None`` where that cannot be told of any."""
    found = set(answers)
    return True in found or (False if False in found else None)


def _changed(inputs: Batch, key: Key, places: tuple[tuple[int, ...], ...]) -> Iterator[Batch]:
    """Copies of inputs in each of which one part of an entry, at the next of some places, has pixels from anywhere in it."""
    axes = inputs.axes[key]
    dims = 3 if "D" in axes.letters else 2

    def mixed(x: Tensor, at: int) -> Tensor:
        x = axes.ordered(x).clone()
        pixels = x.flatten(-dims)
        chosen = torch.randperm(pixels.shape[-1], generator=torch.Generator().manual_seed(at)).to(x.device)
        spans: list[Any] = [
            slice(parts[at] * n // PARTS, max((parts[at] + 1) * n // PARTS, parts[at] * n // PARTS + 1))
            for n, parts in zip(x.shape[-dims:], places[-dims:], strict=True)
        ]
        place = (..., *spans)
        x[place] = pixels[..., chosen].view(x.shape)[place]
        return axes.restored(x)

    for at in range(PARTS):
        yield inputs.apply(partial(lambda at, k, x: mixed(x, at) if k == key else x, at))


def _turned(axes: Axes, of: Key, key: Key, x: Tensor) -> Tensor:
    """An entry of the inputs turned by half a turn, if it is the one that is asked for."""
    return axes.restored(axes.ordered(x).flip(-2, -1)) if key == of else x


def _follows(
    before: Tensor, changed: list[Tensor], places: tuple[tuple[int, ...], ...], prefixed: bool = False
) -> bool | None:
    """Whether the place where a map changes moves with the part of the input that is changed; ``None`` if it hardly moves."""
    size = before.shape[3:]
    places = places[-len(size) :]
    changes = _compared(before, changed)
    strength, excess = float(changes.abs().sum(1).mean()), changes.clamp_min(0)
    few = excess.sum(1).square() < _FEW * excess.shape[1] * excess.square().sum(1)
    if strength < (_LEAST if few.sum() > len(few) // 2 else _CLEAR):
        return None
    excess = excess.square().view(len(changed), *size)  # squares, since many small changes may be anywhere
    for axis, (cells, parts) in enumerate(zip(size, places, strict=True), 1):
        if cells == 1:
            continue
        mass = excess.movedim(axis, 1).flatten(2).sum(2)
        centres = mass @ torch.arange(cells).to(mass) / mass.sum(1)
        x, y = centres - centres.mean(), torch.tensor(parts).to(mass) - (PARTS - 1) / 2
        if len(size) == 3 and axis == 1 and x.abs().max() < _STILL * cells:
            continue  # each frame sees all others, as few frames do
        if x @ y <= _ALONG * x.norm() * y.norm():
            return False
    near = 0
    for more, part in zip(excess, zip(*places, strict=True), strict=True):
        spans = [(at * n // PARTS - 1, -(-(at + 1) * n // PARTS) + 1) for at, n in zip(part, size, strict=True)]
        near += bool(more[tuple(slice(max(low, 0), high) for low, high in spans)].sum() > _NEAR * more.sum())
    return near > len(excess) // 2 and not (prefixed and strength > _CLEAR and _shifted(excess, places))


def _compared(before: Tensor, changed: list[Tensor]) -> Tensor:
    """How much more than the others each of some changes of the input changes each cell of a map, (changes, cells)."""
    changes = torch.stack([(y - before).detach().double().square().mean((0, 1, 2)).sqrt() for y in changed]).flatten(1)
    changes /= changes.sum(1, keepdim=True).clamp_min(1e-300)
    return changes - changes.mean(0)


def _alike(changes: Tensor, others: Tensor) -> bool:
    """Whether changes (parts, cells) of two images at the same parts are in the same cells of a map.

    So they are in whatever order tokens are. Attention without a shortcut looks where the image says. Roots are compared,
    since how much a cell changes depends on the image.
    """
    roots = (x.clamp_min(0).sqrt() for x in (changes, others))
    both = [root - root.mean(1, keepdim=True) for root in roots]
    norms = both[0].norm(dim=1) * both[1].norm(dim=1)
    return bool(((both[0] * both[1]).sum(1) / norms.clamp_min(1e-300)).mean() > _SAME)


def _shifted(excess: Tensor, places: tuple[tuple[int, ...], ...]) -> bool:
    """Whether changes (parts, h, w) fit the parts better where tokens are counted from one or two others on.

    So it is where a class token is not in front of all others; if it is amid them, this is seen in one half of the map.
    """
    if excess.ndim != 3 or min(n for n in excess.shape[1:] if n > 1) < PARTS:  # a signal has one row
        return False
    edges = [torch.linspace(0, PARTS, n + 1).to(excess) for n in excess.shape[1:]]
    inside = [
        torch.stack([(e[1:].clamp(at, at + 1) - e[:-1].clamp(at, at + 1)) * (len(e) - 1) / PARTS for at in parts])
        for e, parts in zip(edges, places, strict=True)
    ]  # share of each row and column of cells that is in each part
    shares = (inside[0][:, :, None] * inside[1][:, None, :]).flatten(1)
    fits = {n: (excess.flatten(1).roll(n, 1) * shares).sum(1) for n in (0, -2, -1, 1, 2)}
    return any(
        fit[half].sum() > _BETTER * fits[0][half].sum()
        for fit in fits.values()
        for half in (slice(None), slice(PARTS // 2), slice(PARTS // 2, None))
    )
