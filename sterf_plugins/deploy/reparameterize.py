"""Fold each BatchNorm into the convolution or linear layer whose output it is given."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .probe import called_once, calls_of, example_for, largest_error, readers_of, replace

_FOLDED = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = nn.modules.batchnorm._BatchNorm


@torch.inference_mode(False)
def reparameterize(model: nn.Module, example: Tensor | None = None, tolerance: float = 1e-5) -> nn.Module:
    """A copy of a model for inference, with convolution-BN and linear-BN pairs as single layers.

    Pairs are found by running the model: a norm whose input is a layer's output, which nothing else reads. Norms that add a
    border (Meta-SDT's ``RepConv``) stay. The copy is in eval mode.

    Args:
        model: any model whose norms follow layers without anything between; it is left as it is.
        example: an input; a random 64x64 image for our backbones.
        tolerance: of the check that a layer alone, on the input that it had, gives what the pair gave.

    Returns:
        The folded copy.

    Raises:
        ValueError: no example is known for the model, no pair is found, or a pair does not fold exactly.
    """
    folded = copy.deepcopy(model).eval()
    example = example_for(model, example)
    count = 0
    while pairs := _pairs(folded, example):
        for layer, norm, given, shape in pairs:
            inner, outer = folded.get_submodule(layer), folded.get_submodule(norm)
            fuse = fuse_linear_bn_eval if isinstance(inner, nn.Linear) else fuse_conv_bn_eval
            fused = fuse(inner, outer)
            with torch.no_grad():
                error = largest_error(fused(given).reshape(shape), outer(inner(given).reshape(shape)))
            if not error <= tolerance:
                raise ValueError(f"{layer} and {norm} do not fold: the outputs differ by {error:.1e} of the largest.")
            replace(folded, layer, fused)
            replace(folded, norm, nn.Identity())
        count += len(pairs)
    if not count:
        raise ValueError(f"{type(model).__name__} has no BatchNorm behind a convolution or linear layer to fold.")
    return folded


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str, Tensor, torch.Size]]:
    """(layer, norm, the layer's input, the shape of the norm's) of every pair."""
    calls = called_once(calls_of(model, example, (*_FOLDED, _NORMS)))
    made = {call.output.data_ptr(): call for call in calls if isinstance(call.module, _FOLDED)}
    readers = readers_of(model, example, _FOLDED)
    pairs = []
    for call in calls:
        layer = made.get(call.input.data_ptr())
        if not isinstance(call.module, _NORMS) or layer is None or call.input.numel() != layer.output.numel():
            continue
        untouched = layer.writes[1] == call.writes[0] and readers.get(layer.name, 1) == 1
        same_size = call.output.shape == call.input.shape
        if untouched and same_size:
            pairs.append((layer.name, call.name, layer.input, call.input.shape))
    return pairs
