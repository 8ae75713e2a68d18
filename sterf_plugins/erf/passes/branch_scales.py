"""Scales of branches that are next to zero, through which hardly anything of a field passes."""

from torch import nn

_LEAST = 1e-3  # ConvNeXt starts at 1e-6, CaiT at 1e-5; those of trained networks are larger
_ADDS_TO_ITS_INPUT = {"GlobalResponseNorm", "GRN"}  # these pass on their input where their weight is zero


def closed_scales(model: nn.Module) -> list[str]:
    """Names of the factors of which all are next to zero.

    Residual branches start like this in many networks: with a last norm of weight 0 (ResNet of timm and mmdet, SwinV2), a
    LayerScale of 1e-6 (ConvNeXt), or a single factor of 0 (NFNet). Fields are then those of the shortcuts alone.

    Args:
        model: the network. Its parameters of one number, or of one for each channel, count, unless they are biases.
    """
    return [
        f"{module_name}.{name}".removeprefix(".")
        for module_name, module in model.named_modules()
        if type(module).__name__ not in _ADDS_TO_ITS_INPUT
        for name, factor in module.named_parameters(recurse=False)
        if factor.ndim <= 1
        and factor.numel()
        and factor.is_floating_point()
        and "bias" not in name
        and factor.detach().abs().max() < _LEAST
    ]
