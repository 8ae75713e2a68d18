"""What is looked up in a model and checked about it before anything is computed."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import begins_with_volumes, is_whole, one_of
from ...undisturbed import exact_kernels, uncompiled, undisturbed
from ..inputs.axes import Axes
from ..inputs.batches import Batch
from ..inputs.sizer import out_of_memory
from ..outputs.capture import Target
from ..outputs.geometry import by
from ..outputs.layouts import LAYOUTS
from ..outputs.targets import ancestors
from ..outputs.windows import find_windows


def check_weights(model: nn.Module) -> None:
    """Raise ``ValueError`` if parameters or buffers have no values, are not finite, have 8 bits, or belong to inference mode.

    Behind a spike function NaN weights give zero gradients, and the error about those would mislead.
    """
    entries = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, tensor in entries if tensor.is_meta]
    if empty:
        raise ValueError(
            f"the model has weights on the device 'meta', such as {empty[0]}, which have a shape and no values; build it on a "
            f"device with memory, such as 'cpu', or load its weights."
        )
    if any(tensor.is_inference() for _, tensor in entries):
        raise ValueError(
            "the model's parameters or buffers were made in inference mode, and nothing that uses them has a gradient; build "
            "and load the model outside of `torch.inference_mode`."
        )
    short = [name for name, tensor in entries if tensor.is_floating_point() and tensor.dtype.itemsize == 1]
    if short:
        raise ValueError(
            f"the model has weights of 8 bits, such as {short[0]}, with which PyTorch computes no gradients; use the model before "
            f"they were quantised."
        )
    broken = [name for name, p in model.named_parameters() if p.is_floating_point() and not _finite(p)]
    # Masks among the buffers may be infinite.
    broken += [name for name, b in model.named_buffers() if b.is_floating_point() and torch.isnan(b).any()]
    if broken:
        raise ValueError(
            f"{len(broken)} of the model's {len(entries)} parameters and buffers are not finite, such as "
            f"{', '.join(broken[:3])}: a diverged training or a broken checkpoint."
        )


def _finite(values: Tensor) -> bool:
    """Whether all values are finite; a finite sum, which is cheaper, says so already."""
    return bool(torch.isfinite(values.detach().sum()) or torch.isfinite(values).all())


def check_size(model: nn.Module, size: tuple[int, ...]) -> None:
    """Raise ``ValueError`` if inputs of a size (H, W) are smaller than the largest stride that the model says it has."""
    backbone: Any = getattr(model, "backbone", model)
    strides = getattr(backbone, "out_strides", None)
    info: Any = getattr(backbone, "feature_info", None)
    if strides is None and info is not None:
        entries = info.info if hasattr(info, "info") else info
        strides = [e["reduction"] for e in entries if isinstance(e, dict) and "reduction" in e]
    numbers = [n for n in strides or [] if isinstance(n, int)]
    if numbers and min(size[-2:]) < max(numbers):
        raise ValueError(
            f"inputs of {by(size)} are smaller than the network's stride of {max(numbers)}; use larger ones."
        )


def check_values(inputs: Batch) -> None:
    """Raise ``TypeError`` for complex inputs, ``ValueError`` for values that are not finite, or for none."""
    tensors = [v for v in inputs.entries.values() if isinstance(v, Tensor)]
    if any(v.is_meta for v in tensors):
        raise ValueError("`inputs` are on the device 'meta', where tensors have a shape and no values; give images.")
    if any(v.is_complex() for v in tensors):
        raise TypeError("`inputs` are complex; give real tensors, such as torch.view_as_real(x) has.")
    if not all(torch.isfinite(v).all() for v in tensors):
        raise ValueError("`inputs` hold NaN or infinite values; look at the files and the normalisation.")


def check_axes(model: nn.Module, inputs: Batch, axes: Axes | None) -> None:
    """Raise ``ValueError`` if inputs that are taken for (T, N, C, H, W) may be videos, as the model begins with a Conv3d."""
    if axes is None and inputs.steps and begins_with_volumes(model):
        raise ValueError(
            "`inputs` have five axes, and the model takes volumes: give axes='NCTHW' for videos, axes='NCDHW' for volumes, or "
            "axes='TNCHW' if the first axis is time steps."
        )


def find_targets(model: nn.Module, names: list[str], grid: Any, layout: Any) -> list[Target]:
    """Look up layers by name, with what ``grid`` and ``layout`` of ``compute_erf`` say about each.

    Raises:
        ValueError: ``grid`` or ``layout`` has a value that is not allowed, or a pattern that fits no module.
    """
    for value in layout.values() if isinstance(layout, Mapping) else [layout]:
        if not callable(value):
            one_of("layout", value, (None, *LAYOUTS, "a function"))
    grids = list(grid.values()) if isinstance(grid, Mapping) else [grid]
    for value in grids:
        sizes = isinstance(value, (tuple, list)) and len(value) in (2, 3)
        if value is not None and not (sizes and all(is_whole(n) and n > 0 for n in value)):
            raise ValueError(f"`grid` is {value!r}; give (rows, columns) or (frames, rows, columns), ints >= 1.")
    modules = dict(model.named_modules())
    for option, value in (("grid", grid), ("layout", layout)):
        for pattern in value if isinstance(value, Mapping) else ():
            if not any(fnmatchcase(name, pattern) for name in modules):
                raise ValueError(
                    f"`{option}` has the pattern {pattern!r}, which fits no module; give names of layers, such as {names[0]!r}."
                )
    return [
        Target(n, modules[n], find_windows(ancestors(model, n)), _option(grid, n), _option(layout, n)) for n in names
    ]


def _option(value: Any, name: str) -> Any:
    """An option for one layer: ``value``, or what it has under the first pattern that the layer's name fits."""
    if isinstance(value, Mapping):
        return next((v for pattern, v in value.items() if fnmatchcase(name, pattern)), None)
    return value


def forward_of(
    model: Any, names: list[str], forward: Callable[[Any, Any], Any] | None, form: type
) -> Callable[[Any], Any]:
    """The function that runs the model as far as the named layers need, for a batch in the user's form.

    Of an OpenMMLab detector or segmentor this is ``extract_feat``, or its forward pass with ``mode="tensor"`` if a
    layer is outside backbone and neck. A model without a backbone, such as a tracker, has all in ``extract_feat``.

    Args:
        model: the model.
        names: the layers.
        forward: the user's function of model and batch, if there is one.
        form: what a batch is: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
    """
    if forward is not None:
        return lambda batch: forward(model, batch)
    run = model
    if hasattr(model, "extract_feat"):
        inside = all(name.split(".")[0] in ("backbone", "neck") for name in names)
        inside = inside or (form is Tensor and not hasattr(model, "backbone"))
        run = model.extract_feat if inside else partial(model, mode="tensor")
    if form is dict:
        return lambda batch: run(**batch)
    return run if form is Tensor else lambda batch: run(*batch)


def guarded(forward: Callable[[Any], Any], inputs: Batch) -> Callable[[Any], Any]:
    """Wrap a forward function so that its errors become a ``ValueError`` that names the size of the inputs.

    Errors that say that memory ran out pass unchanged.
    """
    size = " and ".join(map(by, dict.fromkeys(inputs.sizes)))
    stepped = " To a model that takes one time step, forward=lambda model, x: [model(step) for step in x] gives them one by one."
    hint = stepped if inputs.steps else ""
    shapes = ", ".join(str(tuple(v.shape)) for v in inputs.entries.values() if isinstance(v, Tensor))

    def run(x: Any) -> Any:
        try:
            return forward(x)
        except (RuntimeError, AssertionError, LookupError, TypeError, AttributeError) as error:
            if out_of_memory(error):
                raise
            line = (str(error).splitlines() or [_where(error)])[0].rstrip(".")
            raise ValueError(
                f"the model's forward pass fails for inputs of {size} (shape {shapes}): {line}. "
                f"Give the size and the channels that it takes; inputs smaller than its stride are too small. What it needs "
                f"besides the inputs, `forward=` can give it.{hint}"
            ) from error

    return run


def _where(error: BaseException) -> str:
    """What an error without a text is about: its type, and the line of code that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at `{at.line}` in {Path(at.filename).name}, line {at.lineno}"


def inner_steps(model: nn.Module) -> int | None:
    """T of a model that makes its own time axis, which is an attribute ``T`` above 1; else ``None``."""
    for module in (model, getattr(model, "backbone", None)):
        value = getattr(module, "T", None)
        if isinstance(value, int) and value > 1:
            return value
    return None


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of a model's floating-point parameters; float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def in_type(model: nn.Module, to: torch.dtype, of: tuple[torch.dtype, ...]) -> Iterator[None]:
    """Inside, parameters and buffers ``of`` some types are of another one; afterwards they are what they were before."""
    tensors = [t for t in chain(model.parameters(), model.buffers()) if t.dtype in of]
    before = [t.data for t in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(to)
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data


def _usable(device: str | torch.device) -> torch.device:
    """The device; ``ValueError`` if no tensor can be put there."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"`device` is {str(device)!r}, which cannot be used: {reason}. Give 'cpu', 'cuda' or 'cuda:N'."
        ) from error


@contextmanager
def prepared(model: nn.Module, device: str | torch.device | None) -> Iterator[tuple[torch.device, Callable[[], None]]]:
    """Inside, a model is on a device, in 32 bits and undisturbed, and kernels are exact; afterwards it is as before.

    Args:
        model: the model.
        device: where to compute; the model's own device if ``None``.

    Yields:
        The device, and a function that lets the model start afresh.

    Raises:
        ValueError: there is no such device.
    """
    home = device_of(model)
    there = home if device is None else _usable(device)
    try:
        if there != home:
            model.to(there)
        with (
            in_type(model, torch.float32, of=(torch.bfloat16, torch.float16)),
            torch.inference_mode(False),
            undisturbed(model) as start_afresh,
            torch.enable_grad(),
            uncompiled(),
            torch.autocast(there.type, enabled=False),
            exact_kernels(),
        ):
            yield there, start_afresh
    finally:
        if there != home:
            model.to(home)
