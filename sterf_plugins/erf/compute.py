"""Spatial effective receptive fields: the gradient of a layer's centre with respect to the input.

Definitions: Luo et al. 2016 (arXiv:1701.04128) for the field; "Unveiling the Spatial-temporal Effective Receptive
Fields of SNNs" (arXiv:2510.21403) for spiking networks: upstream gradient 1 for all channels at one position, the
absolute input gradient, means over inputs and over input channels.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .result import ERFResult
from .targets import match_layers
from .undisturbed import undisturbed

REDUCTIONS = {
    "abs": torch.abs,
    "signed": lambda g: g,
    "square": torch.square,
    "relu": torch.relu,
}
Position = str | tuple[float, float] | tuple[int, int]


def compute_erf(
    model: nn.Module,
    inputs: Tensor | Iterable,
    layers: str | Iterable[str] | None = None,
    *,
    position: Position = "center",
    reduce: str = "abs",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> ERFResult:
    """Effective receptive fields of some layers, in input space.

    One forward serves all layers and stops after the last of them; parameters get no gradient. The model is left as
    it was found: training flags, ``requires_grad``, ``.grad``, random states, hooks, checkpointing flags.

    Args:
        model: any module; it is evaluated in eval mode. Of an OpenMMLab detector or segmentor ``extract_feat`` runs.
        inputs: images (N, C, H, W), or an iterable of such batches (a ``DataLoader`` too: the first tensor of a tuple
            or the value ``inputs`` / ``image`` of a dict is taken). All of one size.
        layers: module names or glob patterns; ``None`` for the feature points of our models, ``feature_info`` of timm
            models, the backbone's outputs in a detector or segmentor. A module that returns several maps counts as
            ``name[0]``, ``name[1]``, ...
        position: "center", i.e. (h // 2, w // 2) of the layer's output; "all"; (row, col) as ints; or as fractions
            in [0, 1].
        reduce: "abs" (the papers' pictures), "signed" (their formula), "square" or "relu", of each input element.
        batch_size: inputs per pass for a tensor; 8 by default. An iterable keeps its own batches.
        device: where to compute; the model's own device by default.
        progress: show a bar.

    Returns:
        ``ERFResult`` with one (H, W) map per layer.

    Raises:
        TypeError, ValueError: bad arguments, unknown layers, a layer without a spatial output, or gradients that are
            all zero or not finite; the message names the layer and the likely cause.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"`reduce` is {reduce!r}; allowed: {', '.join(map(repr, REDUCTIONS))}.")
    names = match_layers(model, layers)
    device = torch.device(device) if device is not None else _device_of(model)
    totals: dict[str, Tensor] = {}
    count, shape = 0, None
    with undisturbed(model), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for images in _progress(_batches(inputs, batch_size or 8), progress):
            if shape is not None and images.shape[1:] != shape:
                raise ValueError(
                    f"inputs differ in shape: {tuple(shape)} and {tuple(images.shape[1:])}; resize them to one size."
                )
            shape = images.shape[1:]
            for name, total in _fields(model, images.to(device), names, position, REDUCTIONS[reduce]).items():
                totals[name] = totals.get(name, 0) + total
            count += len(images)
    if not count:
        raise ValueError("`inputs` is empty; give at least one image.")
    spatial = {name: (total / count).float().cpu().numpy() for name, total in totals.items()}
    for name, field in spatial.items():
        _check_field(name, field)
    assert shape is not None
    info: dict[str, Any] = dict(num_inputs=count, input_shape=list(shape), position=str(position), reduce=reduce)
    return ERFResult(list(spatial), spatial, info)


class _Reached(Exception):
    """All targets have been computed; the rest of the forward is not needed."""


def _fields(model: nn.Module, images: Tensor, names: list[str], position: Position, reduction) -> dict[str, Tensor]:
    """Sum over the batch of the reduced, channel-averaged input gradients, by target."""
    batch = len(images)
    if batch == 1 and images.device.type == "cpu" and any(type(m) in _STOCK_BATCH_NORMS for m in model.modules()):
        # PyTorch's CPU BatchNorm backward is silently wrong at batch 1 for some gradient strides.
        images = images.repeat(2, *[1] * (images.ndim - 1))
    x = images.detach().clone().requires_grad_()
    outputs = _capture(model, x, names)
    sums = {}
    targets = list(outputs.items())
    for i, (name, y) in enumerate(targets):
        y = _feature_map(name, y)
        if not y.requires_grad:
            raise ValueError(
                f"layer {name!r}: its output does not depend on the input by gradients. Likely causes: a `no_grad` or "
                f"`detach` inside the model, or a layer that does not see the image."
            )
        target = _at(y[:batch], position, name).sum()
        (grad,) = torch.autograd.grad(target, x, retain_graph=i + 1 < len(targets), allow_unused=True)
        grad = torch.zeros_like(x) if grad is None else grad
        sums[name] = reduction(grad[:batch]).mean(1, dtype=torch.float64).sum(0)
    return sums


_STOCK_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def _capture(model: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Outputs of the named modules, in order of execution; the forward stops after the last of them."""
    captured: dict[str, Tensor] = {}
    pending = set(names)
    modules = dict(model.named_modules())

    def hook(name: str):
        def store(module: nn.Module, arguments: Any, output: Any) -> None:
            if name not in pending:
                return
            if isinstance(output, Tensor):
                captured[name] = output
            else:
                for i, item in enumerate(output.values() if isinstance(output, dict) else output):
                    if isinstance(item, Tensor):
                        captured[f"{name}[{i}]"] = item
            pending.discard(name)
            if not pending:
                raise _Reached

        return store

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        getattr(model, "extract_feat", model)(x)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if pending:
        raise ValueError(f"the forward pass never reached {', '.join(sorted(pending))}; name layers that it runs.")
    return captured


def _feature_map(name: str, y: Tensor) -> Tensor:
    """(B, C, h, w) of a layer's output; a leading time axis of length 1 is dropped."""
    if y.ndim == 5 and y.shape[0] == 1:
        y = y[0]
    if y.ndim != 4:
        raise ValueError(
            f"layer {name!r} gives shape {tuple(y.shape)}; a layer with a spatial output (B, C, H, W) is needed."
        )
    return y


def _at(y: Tensor, position: Position, name: str) -> Tensor:
    h, w = y.shape[-2:]
    if position == "all":
        return y
    if position == "center":
        return y[..., h // 2, w // 2]
    if isinstance(position, str) or len(position) != 2:
        raise ValueError(f"`position` is {position!r}; allowed: 'center', 'all', (row, col) as ints or as fractions.")
    row, col = (
        p if isinstance(p, int) else min(int(p * size), size - 1) for p, size in zip(position, (h, w), strict=True)
    )
    if not (0 <= row < h and 0 <= col < w):
        raise ValueError(f"`position` is {position!r}, outside the {h}x{w} output of layer {name!r}.")
    return y[..., row, col]


def _check_field(name: str, field: np.ndarray) -> None:
    if not np.isfinite(field).all():
        raise ValueError(f"layer {name!r}: the gradients are not finite; look for NaN weights or a diverged training.")
    if not field.any():
        raise ValueError(
            f"layer {name!r}: all gradients are zero. Likely causes: a spiking neuron without a surrogate gradient in "
            f"eval mode, a detached or `no_grad` branch, or a dead layer."
        )


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _batches(inputs: Tensor | Iterable, batch_size: int) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        if inputs.ndim != 4 or not len(inputs):
            raise ValueError(f"`inputs` has shape {tuple(inputs.shape)}; give images (N, C, H, W) with N >= 1.")
        yield from inputs.split(batch_size)
        return
    for item in inputs:
        if isinstance(item, dict):
            item = next((item[k] for k in ("inputs", "image", "images", "img") if k in item), None)
        elif isinstance(item, (list, tuple)):
            item = item[0]
        if not isinstance(item, Tensor) or item.ndim not in (3, 4):
            raise TypeError(f"`inputs` holds {type(item).__name__}; give image tensors (N, C, H, W) or (C, H, W).")
        yield item if item.ndim == 4 else item[None]


def _progress(batches: Iterator[Tensor], show: bool) -> Iterable[Tensor]:
    if not show:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, desc="erf", unit="batch")
