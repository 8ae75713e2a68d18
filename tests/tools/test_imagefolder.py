"""docs/train_imagefolder.py on a small folder of images; its checkpoint starts a detector's backbone."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

import sterf_plugins

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "train_imagefolder.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of coloured noise."""
    root = tmp_path_factory.mktemp("imagefolder")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for i in range(3):
            (root / split / f"class{i}").mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
                pixels[..., i] += 120
                Image.fromarray(pixels).save(root / split / f"class{i}" / f"{n}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--mixup", 0.2, "--cutmix", 1.0)])
def test_one_epoch(forked, folder, tmp_path, extra):
    small = ("--epochs", 1, "--batch-size", 8, "--size", 64, "--workers", 0, "--out", tmp_path)
    result = forked(SCRIPT, folder, "--model", "sdtv3_nano_srb", *small, *extra, fresh=not extra)
    assert result.returncode == 0, result.stderr
    assert "epoch 1/1: loss" in result.stdout and "top-1" in result.stdout
    # A few iterations do not move the statistics of BatchNorms far from 0 and 1, with which the network is silent.
    assert "epoch 1, validation images: " in result.stderr and "spike layers are silent" in result.stderr
    sterf_plugins.setup()
    from mmengine.registry import MODELS

    path = str(tmp_path / "last.pth")
    model = MODELS.build(dict(type="sterf_plugins.SDTV3", arch="nano", mixer="srb", pretrained=path))
    model.init_weights()
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(v, saved[k]) for k, v in model.state_dict().items())


def test_the_args_file_is_of_timms_names():
    """timm's own optimiser and scheduler take what the file says."""
    settings = yaml.safe_load((ROOT / "configs/imagenet/sdtv3_200e.yaml").read_text())
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    optimizer = create_optimizer_v2(
        torch.nn.Linear(2, 2), settings["opt"], lr=settings["lr_base"], weight_decay=settings["weight_decay"]
    )
    _, epochs = create_scheduler_v2(
        optimizer,
        settings["sched"],
        num_epochs=settings["epochs"],
        warmup_epochs=settings["warmup_epochs"],
        min_lr=settings["min_lr"],
    )
    assert epochs == 200
    assert create_transform(224, is_training=True, auto_augment=settings["aa"], re_prob=settings["reprob"])


@pytest.mark.slow
def test_missing_folder(forked, tmp_path):
    done = forked(SCRIPT, tmp_path)
    assert done.returncode == 2 and "expected train/CLASS/*.jpg" in done.stderr


def test_the_distilled_recipe_is_the_recipe_and_a_teacher():
    plain, distilled = (
        yaml.safe_load((ROOT / f"configs/imagenet/sdtv3_200e{kind}.yaml").read_text()) for kind in ("", "_distilled")
    )
    extra = {k: v for k, v in distilled.items() if k not in plain}
    assert {k: v for k, v in distilled.items() if k in plain} == plain
    assert extra.pop("kd_model_name").split(".")[0] in timm.list_models()
    assert extra == dict(kd_distill_type="logit", kd_temperature=1.0, distill_loss_weight=0.5, task_loss_weight=0.5)
