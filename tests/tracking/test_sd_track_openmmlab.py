"""SDTrack through the real tools: training, resuming, and a test that follows whole sequences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tracking_data import make

from sterf_plugins.tracking.sequences import write_boxes

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "sd_track").glob("*.py"))
SMALL = {
    "model.arch": "dict(embed_dims=[8,8,16,16],num_heads=2,depths=[1,1,1,1,1])",
    "model.head_width": 16,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_cfg.max_iters": 2,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
for _loader in ("train", "test"):
    SMALL |= {f"{_loader}_dataloader.dataset.template_size": 64, f"{_loader}_dataloader.dataset.search_size": 128}


def options(root, **more) -> list[str]:
    values = SMALL | {f"{k}_dataloader.dataset.data_root": str(root) for k in ("train", "test")} | more
    return ["--cfg-options", *(f"{k}={v}" for k, v in values.items())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1x4_conv_visevent", "2x2_conv_fe108", "4x1_srb-e4_fe108"])
@pytest.mark.sweep
def test_train_resume_and_test(forked, tmp_path, name):
    layout, steps = name.rsplit("_", 1)[1], int(name[0])
    for split in ("train", "test"):
        boxes = make(tmp_path / "data", layout, split, ["a", "b"], T=steps)
    config = ROOT / "configs" / "sd_track" / f"sdtrack-tiny-{name}.py"
    train = ["tools/train.py", config, "--work-dir", tmp_path / "work"]
    done = forked(ROOT / train[0], *train[1:], *options(tmp_path / "data"))
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"loss_giou", "loss_l1", "loss_focal", "iou", "grad_norm"} <= row.keys() for row in rows)
    assert rows[0]["grad_norm"] > 0 and rows[0]["loss"] != rows[1]["loss"]
    done = forked(ROOT / train[0], *train[1:], "--resume", *options(tmp_path / "data", **{"train_cfg.max_iters": 3}))
    assert done.returncode == 0 and (tmp_path / "work" / "iter_3.pth").is_file(), done.stderr[-3000:]

    results = tmp_path / "results"
    both = {"test_evaluator.results": results, "test_dataloader.dataset.results": results}
    test = [config, tmp_path / "work" / "iter_3.pth", "--work-dir", tmp_path / "tested"]
    done = forked(ROOT / "tools" / "test.py", *test, *options(tmp_path / "data", **both))
    assert done.returncode == 0, done.stderr[-3000:]
    written = {path.name: np.loadtxt(path) for path in results.glob("*.txt")}
    assert set(written) == {"a.txt", "b.txt"} and all(w.shape == boxes.shape for w in written.values())
    assert np.array_equal(written["a.txt"][0], boxes[0]) and "AUC" in done.stdout + done.stderr
    (results / "a.txt").unlink()
    (results / "b.txt").write_text("\n".join(",".join(map(str, row)) for row in boxes))  # a perfect result is kept
    done = forked(ROOT / "tools" / "test.py", *test, *options(tmp_path / "data", **both))
    assert done.returncode == 0 and np.array_equal(np.loadtxt(results / "a.txt"), written["a.txt"])
    assert np.array_equal(np.loadtxt(results / "b.txt", delimiter=","), boxes)


@pytest.mark.slow
def test_averaged_weights_tensorboard_and_two_processes(forked, tmp_path):
    """A training of two processes with EMA; then a test by two processes, which share the sequences, and by one."""
    names = ["a", "b", "c"]
    for split in ("train", "test"):
        boxes = make(tmp_path / "data", "fe108", split, names)
    config = ROOT / "configs" / "sd_track" / "sdtrack-tiny-1x4_conv_fe108.py"
    more = {
        "custom_hooks": "[dict(type='EMAHook',momentum=0.5)]",
        "visualizer.vis_backends": "[dict(type='TensorboardVisBackend')]",
    }
    work = tmp_path / "work"
    command = [ROOT / "tools" / "train.py", config, "--work-dir", work, "--memory-efficient", "--launcher", "pytorch"]
    done = forked(*command, *options(tmp_path / "data", **more), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = EventAccumulator(str(next(work.glob("*/vis_data")))).Reload()
    assert [event.step for event in scalars.Scalars("loss_giou")] == [1, 2]
    saved = torch.load(work / "iter_2.pth", weights_only=False)
    averaged, last = saved["state_dict"], saved["ema_state_dict"]
    key = "network.head.branches.size.8.bias"
    assert averaged["variant"].tolist() == [1, 4] and not torch.equal(averaged[key], last[f"module.{key}"])

    written = {}
    for processes in (1, 2):
        results = tmp_path / f"results{processes}"
        command = [
            ROOT / "tools" / "test.py",
            config,
            work / "iter_2.pth",
            "--work-dir",
            tmp_path / f"tested{processes}",
        ]
        launcher = ["--launcher", "pytorch"] if processes == 2 else []
        settings = options(tmp_path / "data", **{"test_dataloader.dataset.results": results})
        done = forked(*command, *launcher, *settings, processes=processes)
        assert done.returncode == 0 and "frames_per_second" in done.stdout + done.stderr, done.stderr[-3000:]
        (log,) = (tmp_path / f"tested{processes}").glob("*/*.json")
        # Each process writes this file, and its times may have other lengths than those of the process before.
        numbers, _ = json.JSONDecoder().raw_decode(log.read_text())
        files = {path.name: path.read_text() for path in results.glob("*.txt")}
        assert set(files) == {f"{name}.txt" for name in names} and numbers["frames_per_second"] > 0
        written[processes] = files, {k: v for k, v in numbers.items() if k in ("AUC", "PR", "NPR", "OP50")}
    assert written[1] == written[2] and len(written[1][1]) == 4
    assert not np.allclose(np.loadtxt(tmp_path / "results1" / "a.txt"), boxes)

    # What of an interrupted test is there is not run again, and what does not fit is named.
    (tmp_path / "results1" / "b.txt").unlink()
    (tmp_path / "results1" / "c.txt").write_text("1\t2\t3\t4\n")
    command = [ROOT / "tools" / "test.py", config, work / "iter_2.pth", "--work-dir", tmp_path / "again"]
    settings = options(tmp_path / "data", **{"test_dataloader.dataset.results": tmp_path / "results1"})
    done = forked(*command, *settings)
    assert done.returncode == 2 and "c.txt has 1 boxes, and sequence c 40 images; delete the file" in done.stderr
    assert (tmp_path / "results1" / "b.txt").read_text() == written[1][0]["b.txt"]  # followed before the fault was met
    (tmp_path / "results1" / "c.txt").unlink()
    done = forked(*command, *settings)
    assert done.returncode == 0 and "a: the boxes of" in done.stdout + done.stderr, done.stderr[-2000:]
    assert (tmp_path / "results1" / "c.txt").read_text() == written[1][0]["c.txt"]


@pytest.mark.slow
def test_mistakes(forked, tmp_path):
    for split in ("train", "test"):
        boxes = make(tmp_path / "data", "fe108", split, ["a", "b"])
    config = ROOT / "configs" / "sd_track" / "sdtrack-tiny-1x4_conv_fe108.py"
    train = ["train.py", config, "--work-dir", tmp_path / "work"]
    data = "train_dataloader.dataset"
    for settings, message in (
        (
            {"model.variant": "4x1"},
            "the event images have 1 parts, and a model of variant 4x1 takes 4: train_dataloader",
        ),
        ({f"{data}.T": 4}, "inter4_stack_3008 is missing: make the event images, sterf make-gtp"),
        ({f"{data}.search_size": 96}, "12 more make a square map, and they must be a square number"),
        ({f"{data}.images": "jpg"}, "`images` is 'jpg'; allowed: 'png', 'events'"),
        ({f"{data}.images": "events"}, "a has 0 recordings events.* or a.*; it must have one"),
        ({f"{data}.names": "['a','a']"}, "`names` names the sequence 'a' twice"),
    ):
        done = forked(ROOT / "tools" / train[0], *train[1:], *options(tmp_path / "data", **settings))
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    assert not list((tmp_path / "work").glob("*.pth"))
    done = forked(ROOT / "tools" / train[0], *train[1:], *options(tmp_path / "data", **{"train_cfg.max_iters": 1}))
    assert done.returncode == 0, done.stderr[-2000:]
    (tmp_path / "a_file").write_text("")
    labels = tmp_path / "data" / "test" / "a" / "groundtruth_rect.txt"
    for settings, first, message in (
        (
            {"model.variant": "2x2"},
            "10,20,16,12",
            "checkpoint is of an SDTrack of variant 1x4, and the config's is of variant 2x2",
        ),
        (
            {"test_dataloader.dataset.results": tmp_path / "a_file"},
            "10,20,16,12",
            "a_file', which is a file; give a folder",
        ),
        ({}, "10,20,0,12", "the first box of sequence a is 10 20 0 12 (x, y, w, h); it must have a width and height"),
        ({}, "NaN,20,3,12", "the first box of sequence a is nan 20 3 12"),
        ({}, "500,20,16,12", "and lie in 80 x 60 pixels"),
    ):
        lines = [first, *(",".join(map(str, box)) for box in boxes[1:])]
        labels.write_text("\n".join(lines))
        test = ["test.py", config, tmp_path / "work" / "iter_1.pth", "--work-dir", tmp_path / "tested"]
        done = forked(ROOT / "tools" / test[0], *test[1:], *options(tmp_path / "data", **settings))
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]


def test_results_of_other_weights_or_settings_are_refused(tmp_path):
    from sterf_plugins.tracking.sd_track_openmmlab import SDTrackModel, fe108_dataset

    make(tmp_path, "fe108", "test", ["a"], frames=20)
    torch.manual_seed(0)
    model = SDTrackModel(arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2, depths=[1, 1, 1, 1, 1]), head_width=16)
    results = tmp_path / "results"

    def run(**settings) -> dict:
        sides = dict(template_size=48, search_size=64) | settings
        return model.follow(fe108_dataset(tmp_path, split="test", results=results, **sides)[0]["sequence"])

    first = run()
    write_boxes(results / "a.txt", first["boxes"])
    assert first["seconds"] and run()["seconds"] is None
    with pytest.raises(TypeError, match=r"`results` is 5 \(int\); it must be the path of a folder"):
        fe108_dataset(tmp_path, split="test", results=5)
    labels = tmp_path / "test" / "a" / "groundtruth_rect.txt"
    written = labels.read_text()
    labels.write_text(written.replace("10.0,20.0", "14.0,20.0", 1))  # from where the object would have been followed
    with pytest.raises(
        ValueError, match=r"begins with the box \[10.0, 20.0, .* the labels of sequence a with \[14.0, "
    ):
        run()
    labels.write_text(written)
    marker = tmp_path / "test" / "a" / "inter1_stack_3008" / "gtp.json"
    marker.write_text(json.dumps(dict(rule="clean", amount=90, trajectory=30, decay=0.8, interval=None, files=3)))
    with pytest.raises(
        ValueError, match=r"another test, with made_with None, and here it is \{'rule': 'clean', 'amount': 90, "
    ):
        run()
    marker.unlink()
    with pytest.raises(ValueError, match=r"results of another test, with search_size 64, and here it is 128; give ano"):
        run(search_size=128)
    arch = dict(embed_dims=[8, 8, 16, 16], num_heads=4, depths=[1, 1, 1, 1, 1])
    first, model = model, SDTrackModel(arch=arch, head_width=16)
    with pytest.warns(UserWarning, match="saved with num_heads=2"):
        model.load_state_dict(first.state_dict())  # which fit any number of heads
    with pytest.raises(
        ValueError, match=r"another test, with model.arch \{'embed_dims'.*'num_heads': 2.*'num_heads': 4"
    ):
        run()
    make(tmp_path, "fe108", "test", ["a"], frames=20, T=2)
    model = SDTrackModel(variant="2x2", arch=dict(arch, num_heads=2), head_width=16)
    with pytest.warns(UserWarning, match="saved with levels=4"):
        model.network.load_state_dict(first.network.state_dict())
    with pytest.raises(ValueError, match=r"another test, with model.variant '1x4', and here it is '2x2'"):
        run(T=2)
    model = first
    with torch.no_grad():
        model.network.head.branches["score"][1].bn.running_mean[0] += 1
    with pytest.raises(ValueError, match=r"results of another test, with weights '\w+', and here it is '\w+'"):
        run()
    (results / "tested.json").unlink()
    with pytest.raises(ValueError, match=r"a.txt is there, and .*tested.json does not say of which checkpoint it is"):
        run()


def test_the_metrics_folder_has_the_boxes_of_an_earlier_test_too(tmp_path):
    from sterf_plugins.tracking.sd_track_openmmlab import TrackingMetric

    earlier, boxes = tmp_path / "earlier.txt", np.array([[5.5, 5, 10, 10]] * 3)
    earlier.write_text("as it was")
    metric = TrackingMetric(results=str(tmp_path / "own"), integers=True)
    metric.process(None, [dict(name="a", boxes=boxes, labels=boxes, seconds=None, results=earlier)])
    assert (tmp_path / "own" / "a.txt").read_text() == "5\t5\t10\t10\n" * 3 and earlier.read_text() == "as it was"


def test_another_trackers_results_are_not_replaced(tmp_path):
    """Those of an earlier test may be: the metric has written them itself."""
    from sterf_plugins.tracking.sd_track_openmmlab import TrackingMetric

    boxes = np.array([[5.5, 5, 10, 10]] * 3)
    sample = dict(name="a", boxes=boxes, labels=boxes, seconds=1.0, results=None)
    for x in (1, 2):
        TrackingMetric(results=str(tmp_path / "own")).process(None, [sample | dict(boxes=boxes + x)])
    assert np.allclose(np.loadtxt(tmp_path / "own" / "a.txt"), boxes + 2)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("1,2,3,4\n")
    with pytest.raises(
        ValueError, match=r"theirs', which holds a.txt and more that this test did not write; give another"
    ):
        TrackingMetric(results=str(tmp_path / "theirs"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["1x4", "2x2", "4x1"])
def test_one_image_gives_both_regions(variant):
    """As tools need it that know models of one image: the template is the middle of the search region."""
    from sterf_plugins.activity import count_operations
    from sterf_plugins.tracking.sd_track_openmmlab import SDTrackModel

    torch.manual_seed(0)
    model = SDTrackModel(
        variant=variant, arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2, depths=[1, 1, 1, 1, 1]), head_width=16
    )
    image = 60.0 * (torch.rand(2, 3, 128, 128) < 0.3)
    maps = model.extract_feat(image)
    regions = [image[..., 32:96, 32:96], image]
    if model.network.T > 1:
        regions = [torch.stack([x] * model.network.T) for x in regions]
    for ours, theirs in zip(maps, model.network(*regions), strict=True):
        assert torch.equal(ours, theirs) and ours.std() > 0
    operations = count_operations(model.eval(), image)
    analog = {name for name, layer in operations.layers.items() if layer.macs}
    last = {f"network.head.branches.{branch}.8" for branch in ("score", "offset", "size")}
    assert analog == {"network.backbone.stages.0.downsample.conv", *last} and operations.total.acs > 0
    with pytest.raises(
        ValueError, match=r"takes a template and a search region; `extract_feat` takes both from one image"
    ):
        model(image)


@pytest.mark.slow
def test_spikes_and_operations_of_event_images(forked, tmp_path):
    """The first convolution sees the whole canvas of 384 x 384 pixels, in each of two time steps."""
    make(tmp_path, "fe108", "test", ["a"])
    config = ROOT / "configs" / "sd_track" / "sdtrack-tiny-2x2_conv_fe108.py"
    spec = f"{config}(model={dict(arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2, depths=[1, 1, 1, 1, 1]), head_width=16)})"
    images = tmp_path / "test" / "a" / "inter1_stack_3008"
    tool = ROOT / "tools" / "analysis_tools" / "get_sops.py"
    done = forked(tool, spec, "--images", images, "--num", "2", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout)
    first = next(row for row in record["layers"] if row["layer"] == "network.backbone.stages.0.downsample.conv")
    assert first["dense"] == first["macs"] == 2 * 7 * 7 * 3 * 4 * 192**2
    assert record["total"]["acs"] > 0 and sum(row.get("rate", 0) > 0 for row in record["layers"]) > 10


@pytest.mark.slow
def test_hooks_measure_without_a_validation(forked, tmp_path):
    """With each checkpoint, on pairs of the training set."""
    from sterf_plugins.erf import ERFResult

    make(tmp_path / "data", "fe108", "train", ["a", "b"], T=2)
    config = ROOT / "configs" / "sd_track" / "sdtrack-tiny-2x2_conv_fe108.py"
    hooks = "[dict(type='sterf_plugins.ERFHook',num_samples=1),dict(type='sterf_plugins.FiringRateHook',num_samples=1)]"
    more = {"custom_hooks": hooks}
    command = [ROOT / "tools" / "train.py", config, "--work-dir", tmp_path / "measured"]
    done = forked(*command, *options(tmp_path / "data", **more))
    assert done.returncode == 0, done.stderr[-3000:]
    (data,) = (tmp_path / "measured").glob("*/vis_data")
    result = ERFResult.load(data / "erf" / "2.npz")
    score = [layer for layer in result.layers if "score" in layer]
    assert sorted(layer.split("@")[1] for layer in score) == ["search", "template"]
    assert {path.name for path in (data / "erf").glob("*.npz")} == {"1.npz", "2.npz"}
    rates = [json.loads((data / "firing_rate" / f"{step}.json").read_text()) for step in (1, 2)]
    assert all(0 < rate["firing_rate"] < 1 and rate["energy_mj"] > 0 for rate in rates)
    rows = [json.loads(line) for line in (data / "scalars.json").read_text().splitlines()]
    assert [row["step"] for row in rows if "val/firing_rate" in row] == [1, 2]
    assert sum(any(key.startswith("val/erf/") for key in row) for row in rows) == 2
