"""Effective receptive fields in space, in time and in both, of any layers of any model.

Definitions: Luo et al. 2016 (arXiv:1701.04128) for the field; "Unveiling the Spatial-temporal Effective Receptive
Fields of SNNs" (NeurIPS 2025, arXiv:2510.21403) for spiking networks:

* ST-ERF: ``dy[t] / dx[t - lag]`` at the target position, for every output step t and lag;
* S-ERF: its sum over steps and lags, divided by T;
* T-ERF: ``dy[T] / dx[T - lag]`` of the last step T, summed over all output and all input positions, for every lag.

The papers' formulas are signed, but their pictures show means of absolute values: ``reduce="signed"`` gives the former,
the default ``reduce="abs"`` the latter. The absolute value is taken of each input element, after all channels of the
output have been summed and before the means over input channels and inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import as_path, entries, one_of, positive_int, whole_number
from .calibrate import CALIBRATION, norms_to_calibrate
from .inputs.batches import Batch, Key, Reading, batches
from .inputs.processes import everywhere, first_inputs
from .outputs.geometry import Grid
from .outputs.layouts import Layout
from .outputs.selection import Position, check_calls, check_channels, check_choices, check_position
from .outputs.targets import match_layers, stages_of, unwrapped
from .passes.branch_scales import closed_scales
from .passes.collect import Request, collect, told_weight
from .passes.fields import REDUCTIONS
from .passes.preparation import find_targets
from .passes.running import Running
from .protocols import choose
from .result import ERFResult


def compute_erf(
    model: nn.Module,
    inputs: Tensor | tuple | Mapping | Iterable,
    layers: str | Iterable[str] | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    wrt: Key | Iterable[Key] | None = None,
    target_in: Key | None = None,
    axes: str | None = None,
    protocol: str | None = None,
    position: Position = "center",
    reduce: str | None = None,
    kinds: str | Iterable[str] | None = None,
    time: str = "sum",
    weight: Callable[[int, int], float] | np.ndarray | None = None,
    channels: str | int | None = None,
    calls: str | int = "all",
    aggregate: str = "mean",
    normalize: str | None = None,
    target: str = "module",
    grid: Grid | Mapping[str, Grid] | None = None,
    layout: Layout | Mapping[str, Layout] = None,
    time_steps: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    calibrate: bool | str = "auto",
    batch_size: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
    state: str | Path | None = None,
    gather: Callable[[Any], list] | None = None,
) -> ERFResult:
    """Compute the effective receptive fields of some layers of a model, as maps over its input.

    One forward pass serves all layers and stops after the last of them, each backward pass traverses only what lies
    before its layer, and parameters get no gradient. The model is left as it was found: training flags,
    ``requires_grad``, ``.grad``, random states, hooks, neuron states, checkpointing flags.

    Args:
        model: any module; it runs in eval mode. Of an OpenMMLab detector or segmentor only ``extract_feat`` runs, or
            its forward pass with ``mode="tensor"`` if a layer outside backbone and neck is named. Of what ``torch.compile``,
            ``DataParallel`` or ``DistributedDataParallel`` return, it is the module inside, by whose names layers go.
        inputs: images (N, C, H, W), or (T, N, C, H, W) for a model that takes a time axis; a tuple of tensors, which are the
            model's positional arguments, or a dict, which are its keyword arguments; or an iterable of such batches, such
            as a ``DataLoader``. Of a tuple or list that an iterable yields the first entry is taken, and of a dict the
            entry ``inputs``, ``image`` or ``pixel_values``, unless ``forward`` or ``wrt`` is given. All inputs must have
            the same size.
        layers: module names or glob patterns; ``None`` for the feature levels of our models, ``feature_info`` of timm
            models, the backbone's outputs in a detector or segmentor. A module that returns several maps counts as
            ``name[0]``, ``name[1]``, ... (or their keys).
        forward: a function of the model and a batch, in the form in which ``inputs`` give it, that runs the model; what
            it returns is ignored. ``None`` to call the model with the batch.
        wrt: the entries of a tuple or dict that get maps: a name or index, or several. The results of several are called
            ``layer@entry``, each of its entry's size. ``None`` for all that can be images.
        target_in: the entry of several images in which ``position`` is a place, such as a tracker's search region: numbers about
            the target are of this entry's maps alone. ``None`` to see by changing parts of them which entries a layer follows.
        axes: a letter for each axis of these entries; ``None`` for "NCHW" or "TNCHW". N: batch, C: channels, H, W: rows and
            columns, T: time steps in front of N, frames of a video behind it. "NCL" are signals, whose maps have one
            row; "NCTHW", "NTCHW" and "NCDHW" videos and volumes, which have the kinds "frames" and "volume" as well.
        protocol: a published definition, which decides on ``reduce``, ``channels`` and whether input channels are summed,
            and adds that paper's numbers to those of the result: "st-erf", "luo", "replknet", "slak", "vmamba" or
            "openerf" (see ``protocols.py``). "all": each layer by each of them, as ``name@luo`` and so on, in as few
            backward passes as they allow. ``None``: the options as given, which by default are those of "st-erf".
        position: "center", i.e. (h // 2, w // 2) of the layer's output; (row, col) as ints, or as fractions in [0, 1];
            a list of these, whose fields are averaged; or "all", the gradient of the sum over all positions. In videos
            and volumes a frame or slice comes before row and column.
        reduce: what is taken of the gradient at each input element: "abs" (the default, as in the papers' pictures),
            "signed" (unchanged, as in their formulas), "square", "relu"; or "mean-relu", the positive part of its mean
            over input channels.
        kinds: which fields to compute: any of "spatial" (S-ERF), "temporal" (T-ERF), "spatiotemporal" (ST-ERF), and for
            videos and volumes "volume" (D, H, W), of which "spatial" is the sum over frames and "frames" that over rows
            and columns; ``None`` for all that the inputs have. The T-ERF costs one more backward
            pass per layer, the ST-ERF one per output step.
        time: where ``reduce`` is taken in the S-ERF. "sum": after the sum over output and input steps, in one backward
            pass, as the papers compute it. "each": of every ``dy[t]/dx[t - lag]`` before the weighted sum, in one
            backward pass per output step.
        weight: the factor w(t, lag) of the S-ERF with ``time="each"``: a function of t = 1..T and lag = 0..t-1, or an
            array (T, T) indexed [t - 1, lag]; ``None`` for 1 everywhere.
        channels: how the output's channels enter. "sum": the field of their sum, as in the papers. "relu": that of the
            sum of their positive parts. "per-channel": the sum of the fields of all single channels, so that none
            cancel, in one backward pass each. An int: the mean field of so many sums of the channels with random signs.
            "auto", the default: the sum, but 8 sums with random signs where the sum is constant, as behind a LayerNorm,
            so that its gradient would be rounding noise.
        calls: which calls of a layer that the model calls several times, such as a head that several levels share:
            "all", as ``name#0``, ``name#1``, ...; "first", "last", or an index. A loop over time is one call.
        aggregate: "mean" or "median" over inputs, element by element.
        normalize: "max" or "sum" to divide each final array by the maximum or the sum of its absolute values; ``None``
            to leave it as it is.
        target: "module" for the outputs of the named modules themselves (in a residual branch: of the branch alone),
            "block" for the output of the block around each: the innermost entry of a list of blocks that holds it.
        grid: (rows, columns) of the token grid of layers where it cannot be inferred; or a mapping from layer patterns
            to such pairs.
        layout: order of the axes of the layers' outputs where it cannot be inferred, without the time axis: "BCHW",
            "BHWC", "BNC", "BCN" or "BC"; or a function that makes (B, C, h, w) of an output, for tokens in another order
            than that of rows and columns; or a mapping from layer patterns to these.
        time_steps: T; images without a time axis are repeated T times, and the model gets (T, N, C, H, W).
        tolerance: stop as soon as the relative standard error is below this number, such as 0.05, but after 8 inputs at
            least. It is the L2 norm of the standard error over the L2 norm of the field, for the worst spatial or
            temporal field. ``inputs`` may then be an endless iterable.
        seed: seed of the random signs that ``channels`` may ask for.
        calibrate: which BatchNorms get the statistics of the first eight inputs for the computation; afterwards they
            have their own again. "auto": those whose statistics are the initial ones (mean 0, variance 1), with which a
            spiking network falls silent; ``True``: all; ``False``: none. The result's ``info`` holds the choice, and
            under ``calibrated`` how many norms had how many inputs.
        batch_size: inputs per pass; ``None`` or "auto" to measure what memory allows (halved when it runs out). It is 1 of
            models with BatchNorms that keep no statistics, in which inputs of a pass would see each other.
        device: where to compute; the model's own device by default. The model is moved there and back.
        progress: ``True`` for a progress bar, or a function that is called with the number of inputs done and the
            number of all inputs (``None`` if unknown).
        state: a file for the running sums, written every half minute and when interrupted. If it exists and belongs
            to the same computation, the inputs in it are skipped; it is removed at the end.
        gather: for distributed processes that have a share of the inputs each: a function that is given an object by
            every process and returns the list of all of them, such as ``mmengine.dist.all_gather_object``. All
            processes get the same result, and an error in one of them is raised in all. ``tolerance`` then looks at a
            process's own share only.

    Returns:
        ``ERFResult``: arrays by layer, their standard errors, and the numbers derived from them. Layers that have no
        field are left out; ``result.failed`` says why: an unclear layout, gradients that are all zero or not finite,
        tokens in another order than that of rows and columns.

    Raises:
        TypeError, ValueError: bad arguments, unknown layers, no inputs, a model that mixes the inputs of a pass (give
            ``batch_size=1``), or no layer has a field; the message names the layer and the likely cause.
        MemoryError: a single input does not fit into memory.
    """
    if reduce is not None:
        one_of("reduce", reduce, REDUCTIONS)
    check_choices(time=time, aggregate=aggregate, normalize=normalize, target=target, calibrate=calibrate)
    if weight is not None and time != "each":
        raise ValueError("`weight` needs time='each'; with time='sum' there is one backward for all steps and lags.")
    whole_number("seed", seed)
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 < tolerance < 1):
        raise ValueError(f"`tolerance` is {tolerance!r}; it must be in (0, 1), such as 0.05.")
    steps = None if time_steps is None else positive_int("time_steps", time_steps)
    size = None if batch_size in (None, "auto") else positive_int("batch_size", batch_size)
    if kinds is not None and not isinstance(kinds, str):
        kinds = entries("kinds", kinds)
    model, places, calls = unwrapped(model), check_position(position), check_calls(calls)
    protocol, protocols = choose(
        protocol, reduce=reduce, channels=None if channels is None else check_channels(channels), kinds=kinds,
        position=position, time=time, aggregate=aggregate, normalize=normalize,
    )  # fmt: skip
    if protocol not in (None, "st-erf"):
        kinds = "spatial"
    reading = Reading.of(wrt, axes, steps, forward)
    names = match_layers(model, layers, target)
    request = Request(
        model, names, places, kinds, protocol, protocols, time, weight, calls, aggregate, target, size, tolerance, seed,
        calibrate, forward, reading, norms_to_calibrate(model, calibrate), target_in,
    )  # fmt: skip
    running = Running(aggregate, as_path("state", state) if state is not None else None)
    targets = find_targets(model, names, grid, layout)
    stream = batches(inputs, reading)
    total: int | None = None
    if isinstance(inputs, (Tensor, tuple, Mapping)):
        stream = iter([batch := next(stream)])
        total = len(batch)
    sample: Batch | None = None
    if request.norms:
        sample, stream = first_inputs(stream, CALIBRATION, gather)
    work = partial(collect, request, stream, total, sample, targets, running, device, progress)
    if gather is None:
        work()
    else:
        running = Running.merged(everywhere(lambda: work() or running, gather))
    if not running.count:
        raise ValueError("`inputs` is empty; give at least one image.")
    info = _info(request, running, position) | dict(normalize=normalize)
    result = ERFResult.from_estimates(running.estimates, info)
    running.remove()
    return result


def _info(request: Request, running: Running, position: Position) -> dict[str, Any]:
    """What a result says of how it came about, as ``result.info``."""
    protocols, layers = request.protocols, {name: running.facts[name] for name in running.layers}
    info: dict[str, Any] = dict(
        num_inputs=running.count,
        input_shape=next(iter(running.shape.values())),
        protocol=request.protocol,
        position=position if isinstance(position, str) else [list(place) for place in request.places],
        reduce=protocols[""].reduce if "" in protocols else "by protocol",
        kinds=list(running.kinds),
        time=request.time,
        channels=protocols[""].channels if "" in protocols else "by protocol",
        calls=request.calls,
        aggregate=request.aggregate,
        target=request.target,
        calibrate=request.calibrate,
        calibrated=running.calibrated,
        relative_error=running.error(),
        map_size={name: list(fact.size) for name, fact in layers.items()},
        constant_sums=[name for name, fact in layers.items() if fact.constant],
        tokens=[name for name, fact in layers.items() if fact.tokens],
        without_target=[name for name, fact in layers.items() if not fact.follows],
        unclear=[name for name, fact in layers.items() if fact.unclear],
        failed=running.failed,
        cut=list(dict.fromkeys(running.cut)),
        autocast=list(dict.fromkeys(running.autocast)),
        drawn=running.drawn,
        closed_scales=closed_scales(request.model),
        stages=stages_of(request.model, [*layers, *running.failed]),
    )
    if request.weight is not None:
        info["weight"] = told_weight(request.weight)
    if len(running.shape) > 1:
        info["inputs"] = running.shape
    if running.rates:
        info["spike_layers"] = {
            name: dict(
                channels=rate.fired.size, rate=rate.rate, dead=rate.dead, silent=rate.silent, saturated=rate.saturated
            )
            for name, rate in running.rates.items()
        }
        info["spikes_before"] = {name: fact.spikes for name, fact in layers.items()}
    if request.tolerance is not None:
        info |= dict(tolerance=request.tolerance, converged=running.error() < request.tolerance)
    return info
