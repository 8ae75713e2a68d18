"""Models whose outputs can tell that something is wrong.

A fresh spiking network is silent behind its first layers: its logits, and most of its maps, are the same for all images,
so that equal outputs prove nothing.
"""

import torch
from torch import nn

from sterf_plugins.firing import neuron_layers


def images(number=3, size=64, dtype=None):
    """Images of different contrast, which make layers fire differently."""
    return torch.randn(number, 3, size, size, dtype=dtype) * torch.linspace(0.2, 4, number, dtype=dtype).view(
        -1, 1, 1, 1
    )


def live(model, size=64):
    """A spiking model with weights that let its layers fire, down to the head, and the statistics of some images; in eval
    mode, as other models are without a change."""
    if not neuron_layers(model):
        return model.eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    momenta = {}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.constant_(module.weight, 3)
            nn.init.normal_(module.bias)
            momenta[module], module.momentum = module.momentum, 1.0  # the statistics are those of the images below
    with torch.no_grad():
        model.train()(images(8, size, next(model.parameters()).dtype))
    for module, momentum in momenta.items():
        module.momentum = momentum
    return model.eval()


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


def equal(output, other):
    """Whether two outputs, (B, ...) or several of them, are the same, bit for bit; they must differ between images."""
    for y in tensors(output):
        assert y.shape[0] > 1 and y.std(0).max() > 1e-3, "outputs that are the same for all images prove nothing"
    return all(torch.equal(a, b) for a, b in zip(tensors(output), tensors(other), strict=True))


def same(model, other):
    """Whether two models give the same in eval mode, for images between which the second one sees a difference."""
    x = images()
    with torch.no_grad():
        return equal(other.eval()(x), model.eval()(x))
