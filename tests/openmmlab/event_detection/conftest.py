"""A few recordings of moving shapes, and the data set and the tools on them."""

from pathlib import Path

import pytest

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import DATASETS, init_default_scope  # noqa: E402

import sterf_plugins.openmmlab  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "event_detection"
SHAPES = ("circle", "square", "triangle")
PACK = dict(
    type="PackDetInputs",
    meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances", "time"),
)


@pytest.fixture(scope="session")
def data(forked, tmp_path_factory) -> Path:
    """A few recordings of moving shapes, made by the real tool."""
    out = tmp_path_factory.mktemp("events") / "shapes"
    tool = ROOT / "tools" / "dataset_tools" / "make_event_detection.py"
    options = "--train 4 --test 2 --milliseconds 400 --interval 20 --resolution 64 96 --sizes 16 24"
    result = forked(tool, out, *options.split())
    assert result.returncode == 0, result.stderr
    again = forked(tool, out, *options.split())
    assert again.returncode == 2 and "exists; give another name, or --overwrite" in again.stderr
    return out


@pytest.fixture
def dataset():
    """``dataset(root, pipeline, **options)``: that of the recordings below a folder."""
    init_default_scope("mmdet")

    def build(root: Path, pipeline=(), **options):
        settings = dict(
            type="sterf_plugins.EventDetDataset",
            data_root=str(root),
            ann_file="train",
            data_prefix=dict(img="train"),
            metainfo=dict(classes=SHAPES),
            window=50_000,
            pipeline=[
                dict(type="sterf_plugins.LoadEvents", parts=4),
                dict(type="LoadAnnotations", with_bbox=True),
                *pipeline,
                PACK,
            ],
        )
        if "count" in options:
            del settings["window"]
        return DATASETS.build(settings | options)

    return build


@pytest.fixture
def run(forked, data):
    """``run(tool, config, *arguments, **options)``: a tool on the small data set; the result, whatever it is."""

    def call(tool: str, config: str, *arguments, **options):
        settings = [f"{k.replace('__', '.')}={v}" for k, v in options.items()]
        for phase in ("train", "val", "test"):
            settings += [f"{phase}_dataloader.dataset.data_root={data}", f"{phase}_dataloader.num_workers=0"]
            settings += [f"{phase}_dataloader.persistent_workers=False"]
        return forked(ROOT / "tools" / tool, CONFIGS / f"{config}.py", *arguments, "--cfg-options", *settings)

    return call
