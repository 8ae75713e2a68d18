"""SDTrack's configs: the published settings, the reported numbers, and settings that are refused."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml
from tracking_data import make

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "sd_track").glob("*.py"))


def test_settings_that_are_no_settings(tmp_path):
    from sterf_plugins.tracking.sd_track_openmmlab import SDTrackModel, TrackingMetric, fe108_dataset

    for split in ("train", "test"):
        make(tmp_path, "fe108", split, ["a"], frames=20)
    for build, message in (
        (lambda: SDTrackModel(mixr="srb"), "SDTrack has no option 'mixr'; it has arch, classifier, head_width"),
        (
            lambda: SDTrackModel(loss_weights=dict(giuo=3.0)),
            "`loss_weights` has no option 'giuo'; it has focal, giou, l1",
        ),
        (lambda: SDTrackModel(loss_weights=dict(giou="a")), r"`loss_weights\['giou'\]` is 'a'"),
        (lambda: TrackingMetric(integers="no"), "`integers` is 'no'"),
        (lambda: fe108_dataset(tmp_path, split="test", template_size=0), "`template_size` is 0"),
        (lambda: fe108_dataset(tmp_path, split="test", search_size="128"), "`search_size` is '128'"),
        (
            lambda: fe108_dataset(tmp_path, smples=1),
            "a data set of layout 'fe108' has no option 'smples'; it has T, images",
        ),
        (lambda: fe108_dataset(tmp_path, seed=-1), "`seed` is -1; it must be an int >= 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            build()
    labels = tmp_path / "train" / "a" / "groundtruth_rect.txt"
    labels.write_text("\n".join(["-24960,-24970,50000,50000"] * 20))
    with pytest.raises(ValueError, match=r"images \d+ and \d+ of sequence a: `box` is .*a side of 100000 pixels"):
        fe108_dataset(tmp_path, samples=1)[0]
    labels = tmp_path / "test" / "a" / "groundtruth_rect.txt"
    labels.write_text("NaN,NaN,NaN,NaN\n" + "10,20,16,12\n" * 19)
    with pytest.raises(ValueError, match="the first box of sequence a is nan nan nan nan"):  # not after hours of a test
        fe108_dataset(tmp_path, split="test")


def test_splits_that_are_taken_for_each_other():
    """Of a test PyTorch cannot stack the sequences into batches, and of a training the network has no sequence to follow."""
    from mmengine.config import Config

    from sterf_plugins.openmmlab.configs.tracking_checks import check_tracking_data

    config = Config.fromfile(CONFIGS[0])
    check_tracking_data(config, "train", "val", "test")
    config.train_dataloader.dataset.split, config.test_dataloader.dataset.split = "test", "train"
    with pytest.raises(
        ValueError, match=r"train_dataloader.dataset.split is 'test', which gives whole seq.*split=train\. For"
    ):
        check_tracking_data(config, "train")
    with pytest.raises(
        ValueError, match=r"test_dataloader.dataset.split is 'train', which gives pairs.*split=test\. For"
    ):
        check_tracking_data(config, "test")


def test_regions_of_another_size_than_in_the_training_are_told():
    from mmengine.config import Config

    from sterf_plugins.openmmlab.configs.image_checks import REGIONS, other_images
    from sterf_plugins.openmmlab.configs.tracking_checks import TRACKING
    from sterf_plugins.registry import DATASETS
    from sterf_plugins.tracking.sd_track_openmmlab import tracking_dataset

    defaults = {name: one.default for name, one in inspect.signature(tracking_dataset).parameters.items()}
    assert {name: defaults[name] for name in REGIONS} == REGIONS
    made_there = {k for k, made in DATASETS.module_dict.items() if made.__module__ == tracking_dataset.__module__}
    assert made_there == set(TRACKING)
    config = Config.fromfile(CONFIGS[0])
    checkpoint = dict(meta=dict(cfg=config.pretty_text))
    assert not other_images(config, checkpoint)
    config.test_dataloader.dataset.search_size = 512
    (line,) = other_images(config, checkpoint)
    assert line.startswith(
        "the weights were trained with search_size=256, and the config has 512: results will be others"
    )


def test_options_for_pictures_are_refused_in_a_line(monkeypatch):
    import argparse
    import runpy

    from mmengine.config import Config

    prepare = runpy.run_path(str(ROOT / "tools" / "test.py"))["prepare"]
    for out, tta, message in (
        (
            "a.pkl",
            False,
            r"--out is for models of mmdet and mmseg; a tracker writes its boxes by test_evaluator.results=DIR",
        ),
        (None, True, "--tta changes images in a data set's pipeline, and FE108Dataset has none; leave it out"),
    ):
        args = argparse.Namespace(checkpoint="x.pth", show=False, show_dir=None, out=out, tta=tta, overwrite=False)
        with pytest.raises(ValueError, match=message):
            prepare(Config.fromfile(next(c for c in CONFIGS if "fe108" in c.name)), args)


BN = 2 * (32 + 64 + 128 + 128)  # in the mixers, times the ratio; the published counts have none, and a classifier
PARAMETERS = {
    "conv": 19_607_693,
    "conv-sep": 22_280_525,
    "mlpixer-e4": 20_213_173 - 361_000 + 4 * BN,
    "mlpixer-e6": 22_987_925 - 361_000 + 6 * BN,
    "srb-e4": 21_426_293 - 361_000 + 4 * BN,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_are_the_published_settings(path):
    import sterf_plugins

    sterf_plugins.setup()
    from sterf_plugins.openmmlab.configs import load_config
    from sterf_plugins.registry import MODELS

    config = load_config(str(path))
    steps, pairs = int(path.stem.split("-")[2][0]), 60_000 if path.stem.endswith("fe108") else 30_000
    batch = 4 * config.train_dataloader.batch_size
    assert batch == 4 * {1: 42, 2: 16, 4: 8}[steps]
    assert config.train_cfg.max_iters == 100 * (pairs // batch)
    assert config.param_scheduler.milestones == [80 * (pairs // batch)]
    assert config.train_dataloader.dataset.T == config.test_dataloader.dataset.T == steps
    assert config.train_dataloader.dataset.samples == 100 * pairs
    with torch.device("meta"):
        net = MODELS.build(config.model).network
    assert steps == net.T
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[path.stem.split("_")[1]]


def test_metafile_and_readme_have_the_reported_numbers():
    folder = ROOT / "configs" / "sd_track"
    rows = re.findall(
        r"^\| (\dx\d), (\S+?)(?: (e\d))? \| \S+ \| ([\d.]+ / [\d.]+) \| ([\d.]+ / [\d.]+) \|$",
        (folder / "README.md").read_text(),
        re.MULTILINE,
    )
    reported = {}
    for variant, mixer, ratio, *numbers in rows:
        mixer = "-".join(filter(None, ("conv" if mixer == "convolutions" else mixer.lower(), ratio)))
        for data, pair in zip(("FE108", "VisEvent"), numbers, strict=True):
            reported[f"sdtrack-tiny-{variant}_{mixer}_{data.lower()}"] = (data, *map(float, pair.split(" / ")))
    listed = {}
    for model in yaml.safe_load((folder / "metafile.yml").read_text())["Models"]:
        for result in model.get("Results", ()):
            listed[model["Name"]] = (result["Dataset"], *result["Metrics"].values())
    assert listed == reported and len(listed) == len(CONFIGS) - 2  # like with like is nowhere reported
