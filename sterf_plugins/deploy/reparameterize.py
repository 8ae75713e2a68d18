"""Fold each BatchNorm into the convolution or linear layer whose output it is given."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..checks import check_module, number
from ..stems import CovariantRFConv2d
from ..undisturbed import hooked
from .probe import (
    Call,
    Example,
    Forward,
    called_once,
    calls_of,
    example_for,
    float_tensors,
    largest_error,
    output_of,
    run,
)

_FOLDED = (nn.Conv1d, nn.Conv2d, nn.Linear, CovariantRFConv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class Pair(NamedTuple):
    """Names of a layer and of the norm behind it."""

    layer: str
    norm: str


@torch.inference_mode(False)
def reparameterize(
    model: nn.Module, example: Example | None = None, tolerance: float = 1e-9, forward: Forward = output_of
) -> nn.Module:
    """A copy of a model for inference, with convolution-BN and linear-BN pairs as single layers.

    Candidates are found by running the model: a norm whose input is a layer's output. What is folded is proved on the
    **whole model**: its outputs, and what stands in the place of each norm, must not change on the example, nor if noise
    is added to the input of every layer, so that layers whose neurons are silent on the example are proved, too. A norm
    that fails the proof (something else reads the layer's output, the layer computes its weight anew) stays.

    The proof is in float64. In float32, folded weights are rounded otherwise, which may flip a spike whose potential lies
    at a threshold and so changes all that follows. The copy has the model's own dtype, and is in eval mode.

    Args:
        model: any model whose norms follow layers without anything between; it is left as it is. Norms with an
            activation of their own (timm's ``BatchNormAct2d``) leave that activation behind.
        example: an input, or a tuple of inputs, such as a tracker's template and search region; a random 64x64 image for
            our backbones.
        tolerance: largest allowed difference, relative to the largest value of each compared tensor.
        forward: a function of a model and the example that runs the model and returns what must not change, for models that
            take more than an example: ``lambda model, images: model.extract_feat(images)`` folds backbone and neck of
            mmdet's Mask R-CNN. Layers that it does not run stay as they are.

    Returns:
        The folded copy.

    Raises:
        ValueError: no example is known for the model, its weights have no values, or no norm can be folded.
        TypeError: ``model`` is no module, or ``example`` no tensor.
    """
    check_module("model", model)
    number("tolerance", tolerance, lambda value: value >= 0, "a number >= 0")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    if dtype is None:
        raise ValueError(f"`model` is a {type(model).__name__} without parameters; there is nothing to fold.")
    folded = copy.deepcopy(model).eval().double()
    example = example_for(folded, example)
    norms = [name for name, module in folded.named_modules() if isinstance(module, _NORMS)]
    expected = _observed(folded, example, norms, forward)
    done: dict[str, list[str]] = {}  # layer -> the norms that were folded into it
    refused: set[Pair] = set()

    def fold_if_proved(pairs: list[Pair]) -> bool:
        """Fold these pairs, too, unless anything else than them changes by that; whether it was done."""
        nonlocal folded
        candidate = _fold(folded, pairs)
        found = _observed(candidate, example, norms, forward)
        # A norm that was folded before into the same layer stands inside of it now.
        inside = {norm for pair in pairs for norm in done.get(pair.layer, [])}
        compared = expected.keys() - inside
        if not all(largest_error(found[name], expected[name]) <= tolerance for name in compared):
            return False
        folded = candidate
        for name in inside:
            expected.pop(name, None)
        for pair in pairs:
            done.setdefault(pair.layer, []).append(pair.norm)
        return True

    while pairs := [pair for pair in _pairs(folded, example, forward) if pair not in refused]:
        if not fold_if_proved(pairs):  # not all at once: one by one
            refused.update([pair for pair in pairs if not fold_if_proved([pair])])
    if not done:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm behind a convolution or linear layer that could be folded without "
            f"changing the model ({len(refused)} tried)."
        )
    return folded.to(dtype)


def _pairs(model: nn.Module, example: Example, forward: Forward) -> list[Pair]:
    """Layers and norms that run once, the norm on the memory of the layer's output."""
    calls = called_once(calls_of(model, example, (*_FOLDED, *_NORMS), forward))
    made = {call.output.data_ptr(): call for call in calls if isinstance(call.module, _FOLDED) and _is_foldable(call)}
    pairs = []
    for call in calls:
        layer = made.get(call.input.data_ptr())
        if not isinstance(call.module, _NORMS) or call.module.running_mean is None or layer is None:
            continue  # without statistics a norm takes those of each batch
        width = layer.module.out_features if isinstance(layer.module, nn.Linear) else layer.module.out_channels
        if call.input.numel() != layer.output.numel() or call.module.num_features not in (1, width):
            continue  # a part of the output, or a norm over other axes than its channels
        if call.output.shape == call.input.shape:  # Meta-SDT's first norm of a RepConv adds a border
            pairs.append(Pair(layer.name, call.name))
    return pairs


def _is_foldable(call: Call) -> bool:
    """Whether one convolution or linear layer with another weight can do what a layer and a norm behind it do."""
    if isinstance(call.module, CovariantRFConv2d) and (call.module.mode == "aggregate" or call.input.ndim != 4):
        return False  # it sums its inputs first, or runs on a sequence
    return not call.by_name


def _fold(model: nn.Module, pairs: list[Pair]) -> nn.Module:
    """A copy of the model with these pairs as single layers."""
    model = copy.deepcopy(model)
    for pair in pairs:
        layer, norm = model.get_submodule(pair.layer), model.get_submodule(pair.norm)
        if isinstance(layer, CovariantRFConv2d):
            layer = layer.fuse()
        fuse: Callable[..., nn.Module] = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        model.set_submodule(pair.layer, fuse(layer, norm))
        model.set_submodule(pair.norm, _what_remains(norm))
    return model


def _what_remains(norm: nn.Module) -> nn.Module:
    """What a norm does besides normalising: nothing, or the dropout and the activation of a timm ``BatchNormAct2d``."""
    parts = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*parts) if parts else nn.Identity()


def _observed(model: nn.Module, example: Example, norms: list[str], forward: Forward) -> dict[str, list[Tensor]]:
    """The model's outputs under the name "", and by each norm's name the outputs of what stands in its place.

    Each is a stack of two passes, on the example and with noise on the input of every layer. They are compared by one
    scale, since what a silent layer gives on the example may be nothing but rounding.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)

    def disturb(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x + torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) for x in inputs)

    plain = _pass(model, example, norms, forward)
    with hooked(m.register_forward_pre_hook(disturb) for m in model.modules() if isinstance(m, _FOLDED)):
        noisy = _pass(model, example, norms, forward)
    return {name: [torch.stack(pair) for pair in zip(plain[name], noisy[name], strict=True)] for name in plain}


def _pass(model: nn.Module, example: Example, norms: list[str], forward: Forward) -> dict[str, list[Tensor]]:
    """What ``_observed`` collects, of one pass."""
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}

    def record(name: str) -> Callable:
        return lambda module, inputs, output: seen[name].append(output.clone())

    with hooked(model.get_submodule(name).register_forward_hook(record(name)) for name in norms):
        outputs = float_tensors(run(model, example, forward))
    return {"": outputs} | {name: found for name, found in seen.items() if found}
