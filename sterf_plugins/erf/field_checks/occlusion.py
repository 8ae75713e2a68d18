"""Receptive fields without gradients: change patches of the input, and see what the unit does that was differentiated.

Occlusion: Zeiler and Fergus 2014 (arXiv:1311.2901). The unit y is the one of ``compute_erf``: the layer's output at the
position, channels summed or projected, mean over time steps. For a patch P and its change d, three numbers of each input:

* change: ``|y(x + d) - y(x)|``, what the network does; no gradient is in it;
* predicted: ``|<dy/dx, d>|``, the same to first order: equal to the change where the network is linear;
* field: the sum over P of ``|dy/dx|`` (mean over input channels), which is what ``compute_erf`` shows.

Change and prediction are of the same d, so they can be compared patch by patch. The field predicts no change: within a
patch, gradients of opposite signs cancel in the former two and add up in it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...checks import one_of, positive_int
from ...undisturbed import random_start
from ..calibrate import CALIBRATION, norms_to_calibrate
from ..inputs.batches import Batch, Key, Reading, batches, check_shapes, peek
from ..inputs.progress import Progress
from ..inputs.sizer import Sizer
from ..outputs.geometry import Grid
from ..outputs.layouts import Layout
from ..outputs.selection import Position, check_calls, check_channels, check_choices, check_position
from ..outputs.targets import match_layers, unwrapped
from ..passes.preparation import check_axes, check_values, device_of, find_targets
from ..passes.single import mixes_inputs
from ..passes.starts import Settings
from ..passes.units import Units, ready, stopped
from ..protocols import PROTOCOLS, choose
from .field_check import FieldCheck
from .perturbation import Perturbation, image_of, with_image


def check_field(
    model: nn.Module,
    inputs: Tensor | tuple | Mapping | Iterable,
    layers: str | Iterable[str] | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    wrt: Key | None = None,
    axes: str | None = None,
    by: str | float | None = "mean",
    cells: int | tuple[int, int] | None = None,
    budget: int = 256,
    without: str | Iterable[str] | None = "silent",
    protocol: str | None = None,
    position: Position = "center",
    channels: str | int | None = None,
    calls: str | int = "all",
    target: str = "module",
    grid: Grid | None = None,
    layout: Layout = None,
    time_steps: int | None = None,
    seed: int = 0,
    calibrate: bool | str = "auto",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
) -> FieldCheck:
    """Compare receptive fields with what a network does when patches of its input are changed.

    The model is left as it was found.

    Args:
        model: any module.
        inputs: as for ``compute_erf``; standard errors need at least two.
        layers: as for ``compute_erf``, and so are ``forward``, ``axes``, ``position``, ``channels``, ``calls``,
            ``target``, ``time_steps``, ``calibrate``, ``device`` and ``progress``; ``grid`` and ``layout`` are for all layers.
        forward: see ``layers``.
        wrt: the entry of a batch whose patches are changed, where several could be.
        axes: see ``layers``.
        by: how a patch is changed. "mean": occluded by the mean of the inputs. "other": replaced by the patch of another
            input. A number: made noisy, by so many standard deviations. "flip": one spike at a time is flipped, in event
            frames (T, N, C, H, W) of zeros and ones. ``None`` changes nothing and gives the fields alone.
        cells: (rows, columns) of the grid of patches, or one number for both; ``None`` for the finest that the budget
            allows, but at most 16 by 16.
        budget: forward passes for each input; what the grid leaves of it goes into more draws for each patch.
        without: spike layers, by name or pattern, whose surrogate gradients are left out in one more field, ``live``;
            "silent" for those that are silent or saturated in the first eight inputs; ``None`` for no such field.
        protocol: a published definition, as for ``compute_erf`` but for "all", whose target and channels the unit has; the
            three numbers are taken of the gradient as above, whatever the protocol takes of it.
        position: see ``layers``.
        channels: see ``layers``.
        calls: see ``layers``.
        target: see ``layers``.
        grid: see ``layers``.
        layout: see ``layers``.
        time_steps: see ``layers``.
        seed: seed of projections, noise and flips.
        calibrate: see ``layers``.
        batch_size: inputs per pass; halved when memory runs out, and 1 of models with BatchNorms that keep no statistics.
        device: see ``layers``.
        progress: see ``layers``.

    Returns:
        ``FieldCheck``: the maps over the grid of patches, and how well they agree.

    Raises:
        TypeError, ValueError: bad arguments, unknown layers, no inputs, or no layer has a field.
        MemoryError: a single input does not fit into memory.
    """
    check_choices(target=target, calibrate=calibrate)
    steps = None if time_steps is None else positive_int("time_steps", time_steps)
    model = unwrapped(model)
    names = match_layers(model, layers, target)
    places, calls = check_position(position), check_calls(calls)
    one_of("protocol", protocol, (None, *PROTOCOLS))
    chosen = None if channels is None else check_channels(channels)
    _, protocols = choose(protocol, reduce=None, channels=chosen, kinds="spatial", position=position)
    settings = Settings(("spatial",), places, protocols, "sum", None, calls, seed)
    reading = Reading.of(wrt, axes, steps, forward)
    sample, stream = peek(batches(inputs, reading), CALIBRATION)
    if sample is None:
        raise ValueError("`inputs` is empty; give at least one image.")
    check_axes(model, sample, reading.axes)
    check_values(sample)
    perturbation = Perturbation(by, image_of(sample), cells, budget, seed)
    norms = norms_to_calibrate(model, calibrate)
    with (
        ready(model, find_targets(model, names, grid, layout), settings, sample, norms, forward, device) as units,
        Progress(progress, None) as bar,
    ):
        left_out = units.spike_layers(without, sample)
        together = positive_int("batch_size", batch_size)
        sizer = Sizer(1 if mixes_inputs(model) else together, device_of(model))
        maps, done = _maps_of_all(units, stream, sample, sizer, perturbation, left_out, bar)
    kinds = ("field", *(("change", "predicted") if by is not None else ()), *(("live",) if left_out else ()))
    info = dict(
        num_inputs=done, input_shape=next(iter(sample.shapes().values())), by=perturbation.by, cells=list(perturbation.grid),
        draws=perturbation.draws, left_out=left_out, position=str(position), channels=protocols[""].channels, target=target,
        seed=seed, protocol=protocol,
        calibrated=dict(norms=len(norms), inputs=len(sample)) if norms else None,
        failed=units.failed,
    )  # fmt: skip
    return FieldCheck(maps, kinds, info)


def _maps_of_all(
    units: Units,
    stream: Iterable[Batch],
    sample: Batch,
    sizer: Sizer,
    perturbation: Perturbation,
    left_out: list[str],
    bar: Progress,
) -> tuple[dict[str, np.ndarray], int]:
    """The maps of all inputs, by each layer that has them for every input, and the number of inputs."""
    maps: dict[str, list[np.ndarray]] = {}
    done = 0

    def work(part: Batch) -> dict[str, np.ndarray]:
        return _maps(units, units.place(part), perturbation, done, left_out)

    for batch in sizer.regroup(stream):
        check_shapes(sample.shapes(), batch.shapes())
        check_values(batch)
        for count, found in sizer.run(batch, work):
            for name, values in found.items():
                maps.setdefault(name, []).append(values)
            done += count
            bar.update(count)
    joined = {name: np.concatenate(parts) for name, parts in maps.items()}
    return {name: m for name, m in joined.items() if len(m) == done}, done


def _maps(
    units: Units, batch: Batch, perturbation: Perturbation, first: int, left_out: list[str]
) -> dict[str, np.ndarray]:
    """The maps of one batch by layer, (B, kinds, rows, columns), in the order of ``FieldCheck.kinds``."""
    # What a model draws for these inputs is the same in each pass, else its change would be one, too.
    draw_again = random_start()
    before, gradients = units.gradients(batch)
    if not before:
        raise ValueError(" ".join(list(dict.fromkeys(units.failed.values()))[:3]))
    found = {name: [_pooled(g, perturbation)] for name, g in gradients.items()}
    if perturbation.changes:
        for name, pair in _changes(units, batch, before, gradients, perturbation, first, draw_again).items():
            found[name] += pair
    if left_out:
        failed = dict(units.failed)
        with stopped(units.model, left_out):
            draw_again()
            _, live = units.gradients(batch)
        units.failed = failed
        for name, maps in found.items():
            maps.append(_pooled(live[name], perturbation) if name in live else torch.zeros_like(maps[0]))
    units.start_afresh()
    return {name: torch.stack(maps, 1).numpy() for name, maps in found.items()}


def _changes(
    units: Units,
    batch: Batch,
    before: dict[str, Tensor],
    gradients: dict[str, Tensor],
    perturbation: Perturbation,
    first: int,
    draw_again: Callable[[], None],
) -> dict[str, tuple[Tensor, Tensor]]:
    """The maps "change" and "predicted" of one batch by layer, (B, rows, columns)."""
    images = image_of(batch)
    axis = images.ndim - 4
    shape = (len(batch), len(perturbation.patches))
    found = {name: (torch.zeros(shape).double(), torch.zeros(shape).double()) for name in before}
    for cell, (rows, columns) in enumerate(perturbation.patches):
        copies = 0
        for copy in perturbation.copies(images, first, cell):
            copies += 1
            delta = (copy - images)[..., rows, columns]
            draw_again()
            _, after = units.values(with_image(batch, copy))
            for name, (change, predicted) in found.items():
                change[:, cell] += (after[name].detach() - before[name]).abs().sum(0).cpu()
                products = (gradients[name][..., rows, columns] * delta).movedim(axis + 1, 1)
                predicted[:, cell] += products.flatten(2).sum(-1, dtype=torch.float64).abs().sum(0).cpu()
        for maps in found.values():
            for m in maps:
                m[:, cell] *= perturbation.scale(cell) / copies
    return {name: tuple(m.unflatten(1, perturbation.grid) for m in maps) for name, maps in found.items()}


def _pooled(gradients: Tensor, perturbation: Perturbation) -> Tensor:
    """The field (B, rows, columns) of gradients (J, B, C, H, W) or (J, T, B, C, H, W): its mass in each patch."""
    steps = gradients.sum(1) if gradients.ndim == 6 else gradients
    field = steps.abs().mean(2, dtype=torch.float64).sum(0)
    sums = [field[..., rows, columns].sum((-2, -1)) for rows, columns in perturbation.patches]
    return torch.stack(sums, -1).unflatten(-1, perturbation.grid).cpu()
