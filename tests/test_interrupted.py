"""Ctrl-C in the middle of a forward pass leaves the model, the process and other libraries as they were."""

import itertools
import random

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from sterf_plugins.activity import FiringRates, count_operations
from sterf_plugins.backbones import SDTV3, MetaSDT
from sterf_plugins.erf import calibrate, compute_erf

ARCH = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


class Interrupt(nn.Module):
    """Passes its input on, and at the third call is where Ctrl-C arrives."""

    def __init__(self):
        super().__init__()
        self.calls = itertools.count(1)  # a number would be put back before each pass, as all of a model's state

    def forward(self, x):
        if next(self.calls) == 3:
            raise KeyboardInterrupt
        return x


def interrupted(build) -> nn.Module:
    torch.manual_seed(0)
    model = build().train()
    model.stages[3].blocks.append(Interrupt())
    return model


def hooks(model: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, name)) for m in model.modules() for name in names)


def surroundings(model: nn.Module) -> dict:
    """All that a computation changes for its duration."""
    backends = torch.backends
    return dict(
        hooks=hooks(model),
        momentum=[getattr(m, "momentum", None) for m in model.modules()],
        requires_grad=[p.requires_grad for p in model.parameters()],
        flags=[getattr(m, "memory_efficient", None) for m in model.modules()],
        checkpoint=torch.utils.checkpoint.CheckpointFunction,
        backends=(backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cuda.matmul.allow_tf32),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        precision=torch.get_float32_matmul_precision(),
        grad=(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        modes=torch._C._len_torch_dispatch_stack(),
        threads=torch.get_num_threads(),
        random=(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    )


def rates(model: nn.Module, images: torch.Tensor) -> None:
    with FiringRates(model):
        for _ in range(3):
            model(images)


WAYS = {
    "compute_erf": lambda model, x: compute_erf(model, iter([x[:1]] * 9), ["stages.2", "stages.4"], batch_size=1),
    "count_operations": lambda model, x: count_operations(model, x, x, x),
    "FiringRates": rates,
    "calibrate": lambda model, x: [calibrate(model, x) for _ in range(3)],
    "recomputing": lambda model, x: [sum(y.sum() for y in model(x)).backward() for _ in range(3)],
}
MODELS = {
    "sdtv3": lambda: SDTV3(ARCH, "srb", memory_efficient=True),
    "meta_sdt": lambda: MetaSDT((8, 16, 32, 48), 4, T=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sweep
def test_an_interrupt_in_a_forward_pass_leaves_no_trace(way, build):
    model = interrupted(MODELS[build])
    images = torch.randn(2, 3, 32, 32)
    before, training = surroundings(model), [m.training for m in model.modules()]
    with pytest.raises(KeyboardInterrupt):
        WAYS[way](model, images)
    assert surroundings(model) == before
    if way != "calibrate":  # which leaves a model in eval mode, as it says
        assert [m.training for m in model.modules()] == training
    images.requires_grad_()
    sum(y.sum() for y in model(images)).backward()  # the same model goes on
    assert images.grad is not None
