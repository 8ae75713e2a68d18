"""A training with TensorBoard, Weights & Biases (offline) and MLflow (a local file) at once, pictures of fields included."""

import sqlite3
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = {
    "tensorboard": "dict(type='TensorboardVisBackend')",
    "wandb": "dict(type='WandbVisBackend',init_kwargs=dict(mode='offline',project='shapes'))",
    "mlflow": "dict(type='sterf_plugins.MLflowVisBackend',exp_name='shapes')",
}


@pytest.mark.slow
def test_a_training_is_logged_with_pictures_of_fields(shapes, forked, tmp_path):
    for package in BACKENDS:
        pytest.importorskip(package)
    data = [f"{split}_dataloader.dataset.data_root={shapes}/ade" for split in ("train", "val", "test")]
    fields = [
        "default_hooks.erf.num_samples=2",
        "default_hooks.erf.input_size=64",
        "default_hooks.erf.layers=backbone.stages.4",
    ]
    loop = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
    small = ["train_dataloader.batch_size=2", "val_dataloader.dataset.indices=2", "default_hooks.logger.interval=1"]
    backends = f"visualizer.vis_backends=[{','.join(BACKENDS.values())}]"
    config = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    options = ["--work-dir", tmp_path / "run", "--cfg-options", *data, *fields, *loop, *small, backends]
    environment = dict(MLFLOW_DISABLE_TELEMETRY="true", WANDB_SILENT="true")
    result = forked(ROOT / "tools" / "train.py", config, *options, cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    folder = next(tmp_path.glob("run/2*/vis_data"))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2] and "erf" in events.Tags()["images"]

    offline = next(folder.glob("wandb/offline-run-*"))
    assert list(offline.glob("*.wandb")) and list(offline.glob("files/media/images/erf_*.png"))

    with sqlite3.connect(folder / "mlflow.db") as database:
        steps = database.execute("select step from metrics where key = 'loss' order by step").fetchall()
    assert steps == [(1,), (2,)]
    assert {path.name for path in folder.glob("mlflow/*/artifacts/erf_*.png")} >= {"erf_0.png", "erf_2.png"}
