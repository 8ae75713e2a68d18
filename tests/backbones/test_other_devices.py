"""A forward pass stays on the device of its weights and inputs: tensors without values stand for those of a GPU."""

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.tracking.sd_track import SDTrack

OURS = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("sterf_plugins.")]


def run_on_cuda(model: nn.Module, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """A model's outputs as tensors without values on a GPU; a tensor that stays on the CPU on the way is an error.

    Args:
        model: the model, on the CPU; what it computes with beside parameters and buffers stays there.
        shapes: of the inputs.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode(), torch.no_grad():
        there = {
            name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for name, t in own.items()
        }
        outputs = functional_call(model, there, tuple(torch.empty(shape, device="cuda") for shape in shapes))
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.sweep
@pytest.mark.slow
def test_models(name):
    model = timm.create_model(name)
    for training in (True, False):
        outputs = run_on_cuda(model.train(training), (2, *model.default_cfg["input_size"]))
        assert {output.device.type for output in outputs} == {"cuda"}


@pytest.mark.parametrize("variant", ["1x4", "2x2", "4x1"])
@pytest.mark.parametrize("mixer", ["conv", "mlpixer", "srb"])
@pytest.mark.slow
def test_trackers(variant, mixer):
    model = SDTrack(variant=variant, mixer=mixer)
    frames = (2,) if model.T == 1 else (model.T, 2)
    for training in (True, False):
        outputs = run_on_cuda(model.train(training), (*frames, 3, 128, 128), (*frames, 3, 256, 256))
        assert {output.device.type for output in outputs} == {"cuda"}


def test_a_tensor_that_is_made_on_the_cpu_is_found():
    class Shifted(nn.Module):
        def forward(self, x):
            return x + torch.ones(3)

    with pytest.raises(RuntimeError, match="two different devices cuda:0, cpu"):
        run_on_cuda(Shifted(), (2, 3))
