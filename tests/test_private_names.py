"""The private and unstable names of other libraries that this package uses.

A release that changes one of them fails here first, with a message that says which part of the package is affected.
"""

import inspect
import types
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

CHECKS = []


def relied_on(distribution: str, name: str, used_by: str):
    """Register a check that ``name`` of a distribution is as the file ``used_by`` expects it."""

    def register(check):
        CHECKS.append(pytest.param(distribution, name, used_by, check, id=name))
        return check

    return register


@relied_on("torch", "aten.hardtanh_backward", "functional/torch_kernels.py")
def _():
    gradient = torch.ops.aten.hardtanh_backward(torch.ones(3), torch.tensor([-1.0, 0.5, 5.0]), 0.0, 4.0)
    assert gradient.tolist() == [0, 1, 0]


@relied_on("torch", "aten.convolution_backward", "functional/torch_kernels.py")
def _():
    x, weight, grad = torch.randn(1, 2, 5, 5), torch.randn(2, 1, 3, 3), torch.randn(1, 2, 5, 5)
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 2)
    ours = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, (False, True, False))[1]
    torch.testing.assert_close(ours, torch.nn.grad.conv2d_weight(x, weight.shape, grad, 1, 1, 1, 2))


@relied_on("torch", "aten.convolution and products", "backbones/recompute.py and activity/operations.py")
def _():
    for name in ("convolution", "mm", "addmm", "bmm", "baddbmm"):
        assert isinstance(getattr(torch.ops.aten, name).default, torch._ops.OpOverload)


@relied_on("torch", "torch.save.__code__", "cli/console.py")
def _():
    assert isinstance(torch.save.__code__, types.CodeType)


@relied_on("torch", "checkpoint.CheckpointFunction", "erf/undisturbed.py")
def _():
    source = inspect.getsource(torch.utils.checkpoint.checkpoint)
    assert "CheckpointFunction.apply(function, preserve, *args)" in source


@relied_on("torchvision", "ops.torchvision.roi_pool", "openmmlab/runtime/mmcv_ops.py")
def _():
    import torchvision  # noqa: F401

    boxes = torch.tensor([[0, 0.0, 0, 3, 3]])
    values, places = torch.ops.torchvision.roi_pool(torch.rand(1, 1, 4, 4), boxes, 1.0, 2, 2)
    assert values.shape == places.shape == (1, 1, 2, 2) and places.dtype == torch.int32


@relied_on("onedl-mmengine", "MODULE2PACKAGE", "openmmlab/runtime/mmengine_internals.py")
def _():
    from mmengine.config import utils
    from mmengine.registry import registry

    assert registry.MODULE2PACKAGE is utils.MODULE2PACKAGE and "mmseg" in utils.MODULE2PACKAGE


@relied_on("onedl-mmengine", "OptimWrapper._clip_grad", "openmmlab/runtime/mmengine_internals.py")
def _():
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    for wrapper in (OptimWrapper, AmpOptimWrapper):
        assert "self._clip_grad()" in inspect.getsource(wrapper.step)


@relied_on("onedl-mmengine", "_params_init_info", "openmmlab/runtime/mmengine_internals.py")
def _():
    from mmengine.model import BaseModule

    assert "_params_init_info" in inspect.getsource(BaseModule.init_weights)


@relied_on("onedl-mmengine", "FSDPStrategy", "openmmlab/runtime/sharded.py")
def _():
    import mmengine.runner  # noqa: F401
    from mmengine.registry import STRATEGIES

    assert STRATEGIES.get("FSDPStrategy") is not None


@relied_on("onedl-mmcv", "mmcv._ext", "openmmlab/runtime/mmcv_ops.py")
def _():
    import sterf_plugins

    sterf_plugins.setup()
    from mmcv.utils import ext_loader

    assert callable(ext_loader.load_ext("_ext", ["nms"]).nms)


@relied_on("onedl-mmcv", "ConvModule's attributes", "openmmlab/heads/spike_layers.py")
def _():
    import sterf_plugins

    sterf_plugins.setup()
    from mmcv.cnn import ConvModule

    source = inspect.getsource(ConvModule.forward)
    assert all(name in source for name in ("self.order", "self.with_activation", "self.activate"))


@relied_on("onedl-mmdetection", "StandardRoIHead._bbox_forward", "openmmlab/heads/spike_detection.py")
def _():
    import sterf_plugins

    sterf_plugins.setup()
    from mmdet.models.roi_heads import StandardRoIHead

    assert list(inspect.signature(StandardRoIHead._bbox_forward).parameters) == ["self", "x", "rois"]
    assert list(inspect.signature(StandardRoIHead._mask_forward).parameters)[:2] == ["self", "x"]


@pytest.mark.parametrize("name", ["mmdet", "mmseg"])
def test_resnets_have_a_stem_that_can_be_replaced(name):
    import importlib

    import sterf_plugins

    sterf_plugins.setup()
    resnet = importlib.import_module(f"{name}.models.backbones").ResNet
    assert callable(resnet._freeze_stages), "openmmlab/backbones/covariant_stems.py overrides it"
    assert list(inspect.signature(resnet._make_stem_layer).parameters) == ["self", "in_channels", "stem_channels"]


@relied_on("spikingjelly", "named_memories", "erf/undisturbed.py and activity/rates.py")
def _():
    from spikingjelly.activation_based import neuron

    node = neuron.LIFNode()
    node(torch.ones(2))
    kept = dict(node.named_memories())
    node.reset()
    node.v = kept["v"]
    assert dict(node.named_memories())["v"] is kept["v"]


@relied_on("numpy", "functions in pickles", "checkpoints/reading.py")
def _():
    names = {value.__reduce__()[0].__name__ for value in (np.empty(0), np.float64(0))}
    assert names == {"_reconstruct", "scalar"}


@pytest.mark.parametrize(("distribution", "name", "used_by", "check"), CHECKS)
def test_what_is_relied_on(distribution, name, used_by, check):
    try:
        check()
    except Exception as error:
        pytest.fail(
            f"{distribution} {version(distribution)}: {name} is gone or changed, and {used_by} needs it: {error!r}"
        )


def test_hooks_of_modules():
    assert nn.Module()._forward_hooks == {} == nn.Module()._forward_pre_hooks, (
        "tests look whether hooks are left behind"
    )
