"""Effective receptive fields as loops over layers and inputs compute them, as something to measure."""

import torch

from sterf_plugins.undisturbed import reset_states


def published(model, images, modules, grid=None):
    """Layer -> map (H, W), by a whole forward and backward per layer and input, with parameter gradients."""
    maps = {}
    for name, module in modules.items():
        total = 0
        for i in range(len(images)):
            x = images[i : i + 1].clone().requires_grad_()
            kept = []
            handle = module.register_forward_hook(lambda m, a, y, kept=kept: kept.append(y))
            model(x)
            handle.remove()
            y = kept[0] if grid is None else kept[0].unflatten(-1, grid)
            upstream = torch.zeros_like(y)
            upstream[..., y.shape[-2] // 2, y.shape[-1] // 2] = 1
            # The gradient enters each stock BatchNorm contiguous, or batch 1 would be wrong on a CPU.
            y.backward(upstream)
            total = total + x.grad[0].abs().mean(0)
            model.zero_grad(set_to_none=True)
        maps[name] = (total / len(images)).cpu().numpy()
    return maps


def contiguous_gradients(model):
    """The workaround of the reference for PyTorch's wrong BatchNorm gradient at batch 1 on a CPU."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.register_forward_hook(_contiguous_gradient)


def _contiguous_gradient(module, arguments, y):
    if y.requires_grad:
        y.register_hook(lambda g: g.contiguous())


def simple_loop(model, images, layers, parameters):
    """Layer -> map (H, W): a forward and a backward per layer and input, as one writes it down."""
    modules, maps = dict(model.named_modules()), {}
    for name in layers:
        total = 0
        for i in range(len(images)):
            x = images[i : i + 1].clone().requires_grad_()
            kept = []
            handle = modules[name].register_forward_hook(lambda m, a, y, kept=kept: kept.append(y))
            model(x)
            handle.remove()
            y = kept[0]
            if y.ndim == 3:  # tokens behind a class token
                y = y[:, 1:].transpose(1, 2).unflatten(-1, (14, 14))
            elif y.shape[1] == y.shape[2] != y.shape[3]:
                y = y.movedim(-1, 1)
            unit = y[..., y.shape[-2] // 2, y.shape[-1] // 2].sum()
            if parameters:
                unit.backward()
                g = x.grad
                model.zero_grad(set_to_none=True)
            else:
                (g,) = torch.autograd.grad(unit, x)
            total = total + g[0].abs().mean(0)
            reset_states(model)
        maps[name] = (total / len(images) / (getattr(model, "T", None) or 1)).numpy()
    return maps
