"""``--resume``: what may change, and what ends the tool before a training goes on with other settings."""

from pathlib import Path

import pytest
import torch
from cfg_options import settings_of

import sterf_plugins

sterf_plugins.setup()


from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.configs.resume_checks import check_resume  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train.py"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"


def checkpoint_of(config, folder: Path) -> Path:
    """A checkpoint whose training had this config, without weights."""
    path = folder / "epoch_1.pth"
    meta = dict(cfg=load_config(str(config)).pretty_text, seed=0)
    states = [dict(last_step=0, end=20), dict(last_step=0, end=10**9)]
    torch.save(dict(state_dict={}, meta=meta, optimizer={}, param_schedulers=states), path)
    return path


CHANGED = {
    "optim_wrapper.optimizer.type=SGD": "optim_wrapper.optimizer.type was 'AdamW', now 'SGD'",
    "optim_wrapper.optimizer.lr=0.1": "optim_wrapper.optimizer.lr was 0.003, now 0.1",
    "optim_wrapper.paramwise_cfg=dict(norm_decay_mult=0)": "optim_wrapper.paramwise_cfg was None, now {'norm_decay_mult': 0}",
    "optim_wrapper.constructor=Other": "optim_wrapper.constructor was None, now 'Other'",
    "param_scheduler=None": "param_scheduler had LinearLR, CosineAnnealingLR, now none",
}


UNCHANGED = {
    "optim_wrapper.clip_grad=dict(max_norm=35)": "",
    "optim_wrapper.type=AmpOptimWrapper": "",
    "train_cfg.max_iters=1000": "trains until train_cfg.max_iters=1000 instead of 700. The schedules stay those of the checkpoint, "
    "which end at 20: after its last change the learning rate stays",
    "param_scheduler.1.end=1000": "goes on with the checkpoint's schedules, whatever the config says: param_scheduler.1.end",
}


@pytest.mark.parametrize("setting", CHANGED)
def test_resume_with_another_optimizer(setting, shapes, tmp_path, forked):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    settings = [*(f"{phase}_dataloader.dataset.data_root={shapes}/ade" for phase in ("train", "val")), setting]
    done = forked(TOOL, SEGMENTOR, "--work-dir", tmp_path / "w", "--resume", path, "--cfg-options", *settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert CHANGED[setting] in done.stderr
    assert f"--cfg-options load_from={path} without --resume" in done.stderr


@pytest.mark.parametrize("setting", UNCHANGED)
def test_resume_with_what_may_change(setting, tmp_path, logged):
    options = settings_of(setting)
    check_resume(load_config(str(SEGMENTOR), options), str(checkpoint_of(SEGMENTOR, tmp_path)))
    said = logged.getvalue()
    assert UNCHANGED[setting] in said and ("schedules" in said) == bool(UNCHANGED[setting])


def test_resume_of_a_training_that_has_ended(tmp_path, logged):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    saved = torch.load(path)
    torch.save(saved | dict(meta=saved["meta"] | dict(iter=700)), path)
    check_resume(load_config(str(SEGMENTOR)), str(path))
    assert "nothing is left to train, since train_cfg.max_iters is 700" in logged.getvalue()


def test_resume_from_a_checkpoint_that_is_not_whole(tmp_path):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    config, whole = load_config(str(SEGMENTOR)), torch.load(path)
    for name in ("meta", "optimizer", "param_schedulers"):
        torch.save({key: value for key, value in whole.items() if key != name}, path)
        with pytest.raises(ValueError, match=f"epoch_1.pth has no {name}, .* give --cfg-options load_from="):
            check_resume(config, str(path))
    torch.save(whole | {"ema_state_dict": {}}, path)
    with pytest.raises(ValueError, match="has the averaged weights of an EMAHook"):
        check_resume(config, str(path))
    config.custom_hooks = [dict(type="EMAHook")]
    check_resume(config, str(path))


def test_resume_from_a_checkpoint_without_a_config(tmp_path, logged):
    torch.save(dict(state_dict={}, meta={}, optimizer={}, param_schedulers=[]), tmp_path / "a.pth")
    check_resume(load_config(str(SEGMENTOR)), str(tmp_path / "a.pth"))
    assert "its optimizer is not compared" in logged.getvalue()


def test_resume_in_a_folder_without_a_checkpoint(tmp_path, forked):
    """mmengine begins anew; who has mistyped the folder sees it. The training is then stopped by data that are missing."""
    missing = f"train_dataloader.dataset.data_root={tmp_path / 'none'}"
    done = forked(TOOL, SEGMENTOR, "--work-dir", tmp_path / "w", "--resume", "--cfg-options", missing)
    assert done.returncode == 2 and "none" in done.stderr.splitlines()[-2], done.stderr[-2000:]
    assert f"--resume: {tmp_path / 'w'} has no checkpoint yet, so the training begins anew" in done.stdout + done.stderr
