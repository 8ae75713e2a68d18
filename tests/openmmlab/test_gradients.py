"""A training whose gradients are clipped to nothing says so."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch.nn import functional as F

import sterf_plugins.timm

sterf_plugins.setup()

from mmengine.runner import Runner  # noqa: E402

from sterf_plugins.layers import lif_node  # noqa: E402
from sterf_plugins.openmmlab.configs.data_checks import datasets  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.hooks import FiniteLossHook  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "warnings"), [(1.0, 0), (1e12, 1), (0.0, 1)])
@pytest.mark.sweep
def test_gradients_that_clipping_loses_are_one_warning(shapes, tmp_path, weight, warnings):
    config = load_config(str(ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"))
    for _, dataset in datasets(config, "train", "val", "test"):
        dataset.data_root = f"{shapes}/ade"
    config.train_dataloader.batch_size = 2
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=3, val_interval=9)
    config.model.decode_head.loss_decode = dict(type="CrossEntropyLoss", loss_weight=weight)
    config.optim_wrapper.clip_grad = dict(max_norm=35)
    config.default_hooks = dict(finite=dict(type="sterf_plugins.FiniteLossHook"), checkpoint=None)
    config.work_dir = str(tmp_path)
    config.experiment_name = config.visualizer.name = f"gradients-{tmp_path.name}"
    Runner.from_cfg(config).train()
    log = next(tmp_path.glob("2*/*.log")).read_text()
    assert log.count("nothing is learnt") == warnings
    if warnings:
        assert "iteration 1: the norm of all gradients is" in log


@pytest.mark.slow
@pytest.mark.parametrize(("size", "trains"), [(64, False), (112, True)])
def test_meta_sdt_trains_from_112_pixels_on(size, trains):
    """Below, its RepConvs' norms see channels that are constant over batch and pixels, and each divides by sqrt(eps).

    At 96 pixels the norm of four seeds of six is infinite with two threads, and below 200 for all of them with one.
    """
    torch.manual_seed(0)
    model = timm.create_model("meta_sdt_15m", num_classes=10).train()
    F.cross_entropy(model(torch.randn(4, 3, size, size)), torch.arange(4)).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert (norm < 1e3) == trains


def test_weights_that_are_nan_in_front_of_a_neuron_are_not_saved():
    """The neuron makes no spikes of them, and the loss remains a number."""
    layer = torch.nn.Conv2d(3, 4, 1)
    torch.nn.init.constant_(layer.weight, float("nan"))
    assert torch.equal(lif_node()(layer(torch.randn(2, 3, 4, 4))[None]), torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(ValueError, match="`interval` is 0; it must be an int >= 1"):
        FiniteLossHook(interval=0)
    hook, runner = FiniteLossHook(), SimpleNamespace(iter=0)
    hook.before_save_checkpoint(runner, dict(state_dict=torch.nn.Conv2d(3, 4, 1).state_dict()))
    with pytest.raises(FloatingPointError, match=r"1 entries of the model are NaN, such as 'weight'"):
        hook.before_save_checkpoint(runner, dict(state_dict=layer.state_dict()))
