"""Detection on event recordings: data set, images, box filter, and stock detectors trained and tested by the tools."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

import sterf_plugins.openmmlab  # noqa: E402
from sterf_plugins.events import Events, histogram, open_recording, trajectory_prompt, write_recording  # noqa: E402
from sterf_plugins.openmmlab.configs.model_checks import check_events  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.events.loading import LoadEvents  # noqa: E402
from sterf_plugins.openmmlab.events.metric import BOX_FILTERS, kept  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "event_detection"
SHAPES = ("circle", "square", "triangle")
PACK = dict(
    type="PackDetInputs",
    meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances", "time"),
)


@pytest.fixture(scope="module")
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


def dataset(root: Path, pipeline=(), **options):
    init_default_scope("mmdet")
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


def test_arrays_and_coco_give_the_same_images_and_boxes(data):
    arrays, coco = dataset(data), dataset(data, ann_file="annotations/train.json")
    assert len(arrays) == len(coco) == 4 * 20
    for index in (0, 7, 79):
        one, other = arrays[index], coco[index]
        assert torch.equal(one["inputs"], other["inputs"]) and one["inputs"].shape == (8, 64, 96)
        boxes, others = (sample["data_samples"].gt_instances for sample in (one, other))
        assert torch.equal(boxes.bboxes.tensor, others.bboxes.tensor) and torch.equal(boxes.labels, others.labels)
        assert boxes.labels.tolist() == [0, 1, 2]


def test_an_image_has_the_events_before_its_boxes(data):
    sample = dataset(data)[29]
    time, first = sample["data_samples"].time
    path = Path(sample["data_samples"].img_path)
    events = open_recording(path).events()
    assert (path.name, time, first) == ("shapes001_td.h5", 200_000, events.t[0])
    wanted = histogram(events, (64, 96), [time - 50_000, time - 37_500, time - 25_000, time - 12_500, time])
    assert wanted.sum() > 100 and np.array_equal(sample["inputs"], wanted.reshape(8, 64, 96))
    # The last events are those of the shapes, and noise everywhere.
    image = sample["inputs"][6:].sum(0)
    inside = torch.zeros(64, 96, dtype=torch.bool)
    for x1, y1, x2, y2 in sample["data_samples"].gt_instances.bboxes.tensor.round().int().tolist():
        inside[max(0, y1 - 5) : y2 + 5, max(0, x1 - 5) : x2 + 5] = True
    assert image[inside].mean() > 3 * image[~inside].mean()


@pytest.mark.parametrize("options", [dict(window=50_000), dict(count=300)])
@pytest.mark.parametrize("parts", [1, 2])
def test_trajectories_remember_the_window_before(data, options, parts):
    """Otherwise that of a single part would be empty. Of the events that are counted nothing changes."""
    info = dataset(data, **options).get_data_info(15)
    found, counts = (
        LoadEvents(kind, parts, **more)(dict(info))["img"].transpose(2, 0, 1).reshape(parts, -1, 64, 96)
        for kind, more in (("gtp", dict(amount=1)), ("histogram", {}))
    )
    assert np.array_equal(found[:, 1:], counts) and counts.sum() >= 300
    start, stop = info["window"]
    times = np.linspace(2 * start - stop, stop, 2 * parts + 1).round()
    events = open_recording(info["img_path"]).events()
    wanted = trajectory_prompt(events, (64, 96), times, amount=1)[parts:, 0]
    assert np.array_equal(found[:, 0], wanted) and (wanted > 0).mean() > 0.01


@pytest.mark.slow
def test_windows_by_count_and_other_formats(data, tmp_path):
    few = dataset(data, count=300)
    events = open_recording(data / "train" / "shapes000_td.h5").events()
    for index in (0, 19):
        before = np.searchsorted(events.t, few.get_data_info(index)["time"][0])
        assert few[index]["inputs"].sum() == min(300, before)
    for folder, suffix in (("npz", "npz"), ("aedat4", "aedat4")):
        if suffix == "aedat4":
            pytest.importorskip("dv_processing", reason="the extra [events] is missing")
        root = tmp_path / folder
        shutil.copytree(data / "train", root / "train", ignore=shutil.ignore_patterns("*.h5"))
        for path in (data / "train").glob("*.h5"):
            write_recording(root / "train" / f"{path.stem}.{suffix}", open_recording(path).events(), (64, 96))
        assert torch.equal(dataset(root)[50]["inputs"], dataset(data)[50]["inputs"])


def test_boxes_before_the_first_events_have_empty_images(data, tmp_path):
    """Also where a window by count has fewer microseconds than parts."""
    (tmp_path / "train").mkdir()
    events, labels = (
        open_recording(data / "train" / "shapes000_td.h5").events(),
        np.load(data / "train" / "shapes000_bbox.npy"),
    )
    write_recording(tmp_path / "train" / "a.npz", events, (64, 96))
    labels["t"][:6] = np.repeat([events.t[0], events.t[0] + 1], 3)
    np.save(tmp_path / "train" / "a.npy", labels)
    few = dataset(tmp_path, count=300)
    at_first = np.count_nonzero(events.t == events.t[0])
    assert [few[i]["inputs"].sum().item() for i in range(3)] == [0, at_first, 300]


def test_a_flip_takes_events_and_boxes_along(data):
    plain, flipped = dataset(data)[10], dataset(data, [dict(type="RandomFlip", prob=1.0)])[10]
    assert torch.equal(flipped["inputs"], plain["inputs"].flip(-1))
    boxes = [sample["data_samples"].gt_instances.bboxes.tensor for sample in (plain, flipped)]
    torch.testing.assert_close(boxes[1][:, 0], 96 - boxes[0][:, 2])


def test_a_changed_recording_is_read_again(data, tmp_path):
    root = tmp_path / "changed"
    shutil.copytree(data / "train", root / "train")
    before = dataset(root)[0]["inputs"].sum()
    path = root / "train" / "shapes000_td.h5"
    events = open_recording(path).events()
    write_recording(path, Events(*(column[::2] for column in events)), (64, 96))
    assert 0 < dataset(root)[0]["inputs"].sum() < before


def test_images_become_time_steps(data):
    init_default_scope("mmdet")
    images = [dataset(data)[i] for i in (3, 4)]
    batch = dict(inputs=[s["inputs"] for s in images], data_samples=[s["data_samples"] for s in images])
    preprocessor = MODELS.build(dict(type="sterf_plugins.EventDataPreprocessor", time_steps=4, pad_size_divisor=64))
    prepared = preprocessor(batch)
    inputs = prepared["inputs"]
    assert inputs.shape == (4, 2, 2, 64, 128)
    assert torch.equal(inputs[3, 1, :, :, :96], batch["inputs"][1][6:]) and not inputs[..., 96:].any()
    assert prepared["data_samples"][0].batch_input_shape == (64, 128)
    maps = MODELS.build(dict(type="sterf_plugins.TIMMBackbone", model_name="qkformer_10_384", in_channels=2, keep_time=True,
                             depth=4, dim=32, num_heads=2))(inputs)  # fmt: skip
    assert [m.shape[:2] for m in maps] == [(4, 2)] * 3
    wrong = MODELS.build(dict(type="sterf_plugins.EventDataPreprocessor", time_steps=3))
    with pytest.raises(ValueError, match="images have 8 channels, which are no 3 equal time steps"):
        wrong(batch)


def test_the_box_filter_is_prophesees():
    """Their function, box by box: later than 0.5 s, the diagonal at least 60 (30), and both sides at least 20 (10)."""
    rng = np.random.default_rng(0)
    times = np.array([0, 499_999, 500_000, 500_001, 10**6])[rng.integers(0, 5, 3000)]
    sides = rng.integers(5, 80, (3000, 2)).astype(float)
    corner = (
        rng.integers(0, 1000, (3000, 2)) / 10
    )  # to which a side of 30 may be added and give 29.999 when it is taken off
    boxes = np.hstack([corner, corner + sides])
    for name, diagonal, side in (("gen1", 30, 10), ("1mpx", 60, 20)):
        wanted = [
            t > 500_000 and w * w + h * h >= diagonal**2 and w >= side and h >= side
            for t, (w, h) in zip(times, sides, strict=True)
        ]
        assert kept(times, boxes, **BOX_FILTERS[name]).tolist() == wanted and 0 < sum(wanted) < 3000


def sample(image: int, time: int, true: list, predicted: list) -> dict:
    """A test image with boxes (x1, y1, x2, y2) of class 0."""
    boxes = torch.tensor(predicted, dtype=torch.float32).reshape(-1, 4)
    found = InstanceData(
        bboxes=boxes, scores=torch.linspace(1, 0.5, len(boxes)), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    instances = [dict(bbox=list(map(float, box)), bbox_label=0, ignore_flag=0) for box in true]
    return dict(
        img_id=image, ori_shape=(240, 304), time=(time, 0), instances=instances, pred_instances=dict(found.items())
    )


def test_the_metric_leaves_out_what_the_filter_does():
    large, small, other = [10, 10, 60, 60], [100, 100, 108, 140], [150, 20, 200, 90]
    samples = [
        sample(0, 400_000, [large], [other]),  # too early: a wrong box that does not count
        sample(1, 600_000, [large, small], [small, large]),
        sample(2, 700_000, [large], [small, large]),  # the small one is wrong, and does not count
        sample(3, 800_000, [small], [other]),  # as at a time without boxes, of which the toolbox looks at no prediction
    ]

    def average_precision(count=4, **options):
        metric = METRICS.build(dict(type="sterf_plugins.EventCocoMetric", **options))
        metric.dataset_meta = dict(classes=("car",))
        values = []
        for _ in range(2):  # a training measures again and again
            metric.process({}, samples)
            values.append(metric.evaluate(count)["coco/bbox_mAP"])
        assert values[0] == values[1]
        return values[0]

    assert average_precision(box_filter="gen1") == pytest.approx(1, abs=1e-3)
    assert average_precision() < 0.8
    assert average_precision(box_filter=dict(min_side=5)) < 0.8
    with pytest.raises(ValueError, match="no true boxes in 0 images"):
        average_precision(box_filter=dict(skip_time=10**9))
    with pytest.raises(ValueError, match="`box_filter` is 'gen4'; allowed: 'gen1', '1mpx'"):
        average_precision(box_filter="gen4")
    with pytest.raises(ValueError, match="`box_filter` has side; it takes skip_time, min_diagonal, min_side"):
        average_precision(box_filter=dict(side=1))
    del samples[0]["time"]
    with pytest.raises(ValueError, match="PackDetInputs left out time"):
        average_precision()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ann_file="annotations/nothing.json"), "there is no file of boxes .*nothing.json"),
        (dict(ann_file="annotations"), "there are no files of boxes .*npy in .*annotations"),
        (dict(ann_file="annotations/train.json", metainfo=dict(classes=("circle", "car"))),
         "has no category 'car', which `metainfo.classes` names; it has 'circle', 'square', 'triangle'"),
        (dict(metainfo=dict(classes=("circle", "square"))), "has class_id 2, and `metainfo.classes` names 2: circle, square"),
        (dict(metainfo=dict(classes=())), "needs the names of its classes"),
        (dict(time_unit="minutes"), "`time_unit` is 'minutes'; allowed: 'us', 'ms', 's'"),
        (dict(time_unit="s"), "its labels are at 20000000000 to 400000000000 µs, and its events at .*`time_unit` 's' may be wrong"),
        (dict(window=10**6), "`window` is 1000000 µs, and the events of .* last 39.... µs"),
        (dict(count=10**7), "`count` is 10000000, and .* has .* events; give fewer"),
        (dict(window=None), "`window` is None and `count` is None; give one of them"),
        (dict(names=("shapes000", "other")), "`names` has other, of which there are no labels; there are those of shapes000"),
        (dict(names=("shapes000", "shapes000_td")), "`names` has the recording shapes000 twice; name each one once"),
        (dict(names="val.txt"), "`names` is 'val.txt', and there is no file"),
        (dict(names=("shapes000", 7)), "`names` has 7; the names of recordings are texts, such as '7'"),
        (dict(metainfo=dict(classes=3)), "`metainfo.classes` is 3; give a list of names"),
        (dict(data_prefix="train"), "`data_prefix` is 'train'; it must name the folder of the recordings: data_prefix="),
        (dict(data_prefix=dict(img_path="train")), "`data_prefix` is {'img_path': 'train'}; it must name the folder"),
        (dict(data_prefix=dict(img="annotations")), "needs one recording shapes000.* in .*annotations and has none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(data, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataset(data, **options)


def test_images_of_another_size_and_recordings_of_one_name(data, tmp_path):
    """A COCO file tells the size of the sensor, and may name files in folders; a file may not say its size."""
    for folder in ("day", "night"):
        (tmp_path / folder).mkdir()
        events = Events.of([1000, 9000], [3, 60], [2, 7], [0, 1])
        np.savez(tmp_path / folder / "a.npz", **events._asdict())
    box = dict(category_id=0, bbox=[70, 2, 9, 9])
    document = dict(
        images=[
            dict(id=i, file_name=f"{folder}/a.npz", t=9500, height=50, width=80)
            for i, folder in enumerate(("day", "night"))
        ],
        annotations=[dict(id=i, image_id=i, **box) for i in range(2)],
        categories=[dict(id=i, name=name) for i, name in enumerate(SHAPES)],
    )
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    load = partial(dataset, tmp_path, ann_file="boxes.json", data_prefix=dict(img=""), window=8000)
    with pytest.raises(ValueError, match=r"image 0 has \(50, 80\) pixels .* has \(8, 61\); .*: sensor=\(50, 80\)"):
        load()
    found = load(sensor=(50, 80))
    assert found[1]["inputs"].shape == (8, 50, 80) and len(found[1]["data_samples"].gt_instances) == 1
    with pytest.raises(ValueError, match="event 1 has x=60, outside the sensor of 60 columns"):
        load(sensor=(50, 60))
    chosen = load(sensor=(50, 80), names=("night/a",))
    assert [Path(chosen.get_data_info(i)["img_path"]).parent.name for i in range(len(chosen))] == ["night"]
    with pytest.raises(
        ValueError, match=r"`names` has a, which is the name of .*day/a.npz, .*night/a.npz; name the folder"
    ):
        load(sensor=(50, 80), names=("a",))


def test_broken_arrays(data, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(data / "train", root / "train")
    boxes = root / "train" / "shapes000_bbox.npy"
    array = np.load(boxes)
    np.save(boxes, array[["t", "x", "y"]])
    with pytest.raises(ValueError, match="has t, x, y; boxes are a structured array with t, x, y, w, h, class_id"):
        dataset(root)
    boxes.write_text("text")
    with pytest.raises(ValueError, match=r"shapes000_bbox.npy is no array of boxes"):
        dataset(root)
    np.save(boxes, array)
    boxes.write_bytes(boxes.read_bytes().replace(b", }", b", (", 1))
    with pytest.raises(ValueError, match=r"shapes000_bbox.npy is no array of boxes: .*EOF in multi-line statement"):
        dataset(root)
    with boxes.open("wb") as file:
        np.savez(file, boxes=array)
    with pytest.raises(ValueError, match=r"is no array of boxes, but several of numpy.savez; write one by numpy.save"):
        dataset(root)
    np.save(boxes, array)
    assert (
        len(dataset(root, metainfo=dict(classes=SHAPES[:2]), ignored_class_ids=(2,))[0]["data_samples"].gt_instances)
        == 2
    )
    (root / "names.txt").write_text("shapes002\nshapes000\n")
    assert len(dataset(root, names="names.txt")) == 40


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_channels_and_steps_of_the_configs_fit(path):
    config = load_config(str(path))
    init_default_scope("mmdet")
    check_events(config, "train", "val")
    channels = config.model.backbone.in_channels
    config.model.backbone.in_channels = 3
    with pytest.raises(
        ValueError, match=rf"in {channels} channels.* takes in_channels=3: .*backbone.in_channels={channels}"
    ):
        check_events(config, "train")
    config.model.backbone.in_channels = channels
    config.model.data_preprocessor.time_steps = 2
    with pytest.raises(ValueError, match="makes time_steps=2 of them"):
        check_events(config, "train")


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


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in max(folder.glob("2*/vis_data/scalars.json")).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("config", [p.stem for p in sorted(CONFIGS.glob("*.py"))])
@pytest.mark.sweep
def test_detectors_train_and_test(run, config, tmp_path):
    """Two epochs of the shipped configs. RetinaNet's loss falls; RTMDet's grows first, as more and more boxes are found."""
    result = run(
        "train.py", config, "--work-dir", tmp_path, train_dataloader__batch_size=4, default_hooks__logger__interval=5,
        train_cfg__val_interval=2,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    found = losses(tmp_path)
    assert len(found) == 8 and np.isfinite(found).all() and (found[-1] < 0.8 * found[0] or "rtmdet" in config)
    # So short a training may give no box that is likely enough, and mmdet would measure nothing.
    checkpoint, likely = tmp_path / "epoch_2.pth", dict(model__test_cfg__score_thr=0)
    tested = run("test.py", config, checkpoint, "--work-dir", tmp_path / "test", **likely)
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert re.search(r"coco/bbox_mAP: \d", tested.stdout + tested.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["spikformer_8_384", "sdtv3_nano"])
def test_any_backbone_goes_into_them(run, backbone, tmp_path):
    options = dict(
        train_cfg__max_epochs=1,
        train_dataloader__dataset__names="('shapes000',)",
        val_evaluator__box_filter="dict(skip_time=100000)",
    )
    options |= dict(model__data_preprocessor__time_steps=4 if backbone.startswith("spik") else 1)
    options |= {"model__backbone__depth": 1} if backbone.startswith("spik") else {"model__backbone__in_channels": 8}
    result = run(
        "train.py", "retinanet_qkformer_fpn_event-shapes", "--backbone", backbone, "--work-dir", tmp_path, **options
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]


@pytest.mark.slow
def test_mistakes_end_in_one_line(run, tmp_path):
    for options, message in (
        (dict(model__backbone__in_channels=5), "takes in_channels=5: --cfg-options model.backbone.in_channels=2"),
        (dict(train_dataloader__dataset__ann_file="nowhere"), "nowhere does not exist"),
        (dict(train_dataloader__dataset__window=10**7), "`window` is 10000000 µs, and the events of"),
    ):
        result = run("train.py", "retinanet_qkformer_fpn_event-shapes", "--work-dir", tmp_path, **options)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr[
            -2000:
        ]


def test_the_config_of_the_docs_loads(tmp_path):
    text = (ROOT / "docs" / "events.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "_base_" in b)
    path = tmp_path / "mine.py"
    path.write_text(block.replace("sterf_plugins::event_detection", str(CONFIGS)))
    config = load_config(str(path))
    assert [config[f"{p}_dataloader"].dataset.ann_file for p in ("train", "val", "test")] == ["train", "test", "test"]
    assert config.val_dataloader.dataset.test_mode and config.train_dataloader.dataset.names is None
    assert config.test_evaluator.box_filter == "gen1" and config.model.bbox_head.anchor_generator.octave_base_scale == 8


def test_two_workers_give_the_same_images(data):
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader

    def images(**options) -> list[torch.Tensor]:
        loader = DataLoader(dataset(data), batch_size=7, collate_fn=pseudo_collate, **options)
        return [image for _ in range(2) for batch in loader for image in batch["inputs"]]

    one, several = images(), images(num_workers=2, persistent_workers=True)
    assert len(one) == len(several) == 2 * 80 and all(map(torch.equal, one, several))


@pytest.mark.slow
def test_pictures_of_detections_and_files_that_are_no_images(run, forked, data, tmp_path):
    name = "retinanet_sdtv3-n-srb_fpn_event-shapes"
    config = CONFIGS / f"{name}.py"
    init_default_scope("mmdet")
    torch.save(dict(state_dict=MODELS.build(load_config(str(config)).model).state_dict()), tmp_path / "w.pth")
    found = run(
        "test.py", name, tmp_path / "w.pth", "--work-dir", tmp_path, "--show-dir", "shown", model__test_cfg__score_thr=0
    )
    assert found.returncode == 0, found.stderr[-3000:]
    pictures = sorted(tmp_path.glob("*/shown/*.png"))
    assert len(pictures) == 2 * 20 and pictures[0].name == "shapes000_td-0.png"
    import cv2

    assert len({cv2.imread(str(p)).tobytes() for p in pictures}) == 40
    (tmp_path / "photo.png").write_bytes(pictures[0].read_bytes())
    for file, message in (
        (data / "test" / "shapes000_td.h5", "is a recording of events, and no image. For pictures of detections"),
        (tmp_path / "photo.png", "LoadEvents takes the windows of an EventDetDataset, and not the file"),
    ):
        options = ["--config", config, "--checkpoint", tmp_path / "w.pth", "--out", tmp_path / "seen"]
        refused = forked(ROOT / "tools" / "infer.py", file, *options)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr[-1500:]


@pytest.mark.slow
def test_stock_yolox_trains_two_iterations_on_events(forked, data, tmp_path):
    """The model of mmdet's own config with another number of classes and channels; a spiking backbone replaces CSPDarknet."""
    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    model = load_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py").model
    del model["data_preprocessor"]
    model.bbox_head.num_classes = 3
    config.model = model | dict(data_preprocessor=dict(type="sterf_plugins.EventDataPreprocessor", pad_size_divisor=32))
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
    config.param_scheduler = []
    for phase in ("train", "val", "test"):
        loader = config[f"{phase}_dataloader"]
        loader.dataset.data_root, loader.num_workers, loader.persistent_workers = str(data), 2, True
    config.default_hooks.logger.interval = 1
    config.dump(tmp_path / "yolox.py")
    command = [ROOT / "tools" / "train.py", tmp_path / "yolox.py", "--work-dir", tmp_path / "work"]
    done = forked(*command, "--backbone", "sdtv3_nano_srb", "--cfg-options", "model.backbone.in_channels=8")
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    found = losses(tmp_path / "work")
    assert len(found) == 2 and np.isfinite(found).all() and found[0] != found[1]


def test_arrays_and_json_that_say_nothing_or_nonsense(data, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(data / "train", root / "train")
    for file in sorted((root / "train").glob("*.npy"))[1:]:
        file.unlink()
    (file,) = (root / "train").glob("*.npy")
    good = np.load(file)
    for change, message in (
        (dict(x=np.nan), "has the box .*nan.*; it must be four finite numbers"),
        (dict(w=1e30), r"has the box .*1.0*e\+30.*; it must be four finite numbers"),
        (dict(w=np.inf), "has the box .*inf.*; it must be four finite numbers"),
        (dict(class_id=-1), "has class_id -1, and `metainfo.classes` names 3"),
        (dict(class_id=0.5), "has class_id of type float64; it must be whole numbers"),
        (dict(t=10**9), "its labels are at 20000 to 1000000000 .s, and its events"),
        (dict(t=np.nan), "has the time nan; it must be a number"),
    ):
        kinds = [(n, type(change[n]) if n in change else good.dtype[n]) for n in good.dtype.names]
        wrong = good.astype(kinds)
        for name, value in change.items():
            wrong[name][-1] = value
        np.save(file, wrong)
        with pytest.raises(ValueError, match=message):
            dataset(root)
    shares = good.copy()
    for name in "xywh":
        shares[name] /= 100
    np.save(file, shares)
    with pytest.raises(ValueError, match=r"none of 60 boxes of .*train has sides of at least a pixel.* w, h in pixels"):
        dataset(root)
    larger = good.copy()  # of a sensor that has been halved
    for name in "xywh":
        larger[name] *= 2
    larger["x"] += 60
    np.save(file, larger)
    with pytest.raises(
        ValueError, match=r"\d+ of 60 boxes of .*train has sides of .* in pixels of the recording's sensor"
    ):
        dataset(root)
    np.save(file, good[:0])
    with pytest.raises(ValueError, match="train has no labelled time, and so there is no image"):
        dataset(root)

    coco = json.loads((data / "annotations" / "train.json").read_text())
    images, annotations, categories = coco["images"][:1], coco["annotations"][:1], coco["categories"]
    for change, message in (
        (dict(images=[]), "annotation 0 is of image"),
        (dict(images=[], annotations=[]), "has no labelled time"),
        (dict(images=2 * images), "two with the same; each needs its own"),
        (dict(images=[images[0] | {"t": "now"}]), "has the time 'now'; it must be a number"),
        (dict(annotations=[annotations[0] | {"bbox": [1, 2, 3]}]), "has the box .1, 2, 3.; it must be four"),
        (dict(annotations=[annotations[0] | {"category_id": 77}]), "annotation 0 is of image .* and category 77"),
        (dict(annotations=[annotations[0] | {"bbox": [1, [2], 3, 4]}]), "has the box .1, .2., 3, 4.; it must be four"),
        (dict(annotations=[{"image_id": images[0]["id"], "category_id": 1}]), "annotation 0 has no bbox"),
        (
            dict(categories=[*categories, dict(id=99, name="circle")]),
            "has two categories of one name or one id: circle",
        ),
        (
            dict(categories=[*categories, dict(id=categories[0]["id"], name="star")]),
            r"one id: circle \(0\), .* star \(0\)",
        ),
    ):
        document = dict(images=images, annotations=annotations, categories=categories) | change
        (root / "c.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=message):
            dataset(root, ann_file="c.json")
    (root / "c.json").write_text(json.dumps(dict(images=images, annotations=[], categories=categories)))
    with pytest.raises(
        ValueError, match=r"none of 1 labelled times of .*c.json has a box, and `filter_cfg` leaves out all"
    ):
        dataset(root, ann_file="c.json", filter_cfg=dict(filter_empty_gt=True))
    assert len(dataset(root, ann_file="c.json")) == 1
    for change in (
        dict(annotations=[3]),
        dict(annotations=[dict(image_id=[1])]),
        dict(images=[dict(images[0], id=[1])]),
    ):
        (root / "d.json").write_text(json.dumps(dict(images=images, annotations=[], categories=categories) | change))
        with pytest.raises(ValueError, match=r"d.json is no COCO file: \w+Error"):
            dataset(root, ann_file="d.json")
    (root / "d.json").write_text((root / "c.json").read_text(), encoding="utf-8-sig")  # as editors of Windows do
    assert len(dataset(root, ann_file="d.json")) == 1
    for options, message in (
        (dict(names=3), "`names` is 3"),
        (dict(ignored_class_ids="0"), "`ignored_class_ids` is '0'"),
        (dict(ignored_class_ids=["0"]), "`ignored_class_ids` is '0' .*an int"),
        (dict(metainfo=dict(classes="ab")), "`metainfo.classes` is 'ab'; give a list of names"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dataset(root, ann_file="c.json", **options)
    for shortest, message in (
        (65, "leaves out all 1 images, whose shorter sides are below min_size=65"),
        ("64", "is '64'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dataset(root, ann_file="c.json", filter_cfg=dict(min_size=shortest))
    with pytest.raises(TypeError, match="`filter_cfg` has no option 'min_box'; it has filter_empty_gt, min_size"):
        dataset(root, ann_file="c.json", filter_cfg=dict(min_box=8))
    assert len(dataset(root, ann_file="c.json", filter_cfg=dict(min_size=64))) == 1
    np.save(file, good)
    (root / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be copied to .*file.*: `cache`"):
        dataset(root, cache=str(root / "file"))
    with pytest.raises(ValueError, match="`bins` is no option of 'histogram'; it has none"):
        dataset(root, [dict(type="sterf_plugins.LoadEvents", bins=3)])


def test_images_with_time_steps_are_resized(data):
    """For receptive fields: of the validation set, and noise, with as many channels as the backbone takes."""
    from sterf_plugins.cli.loading import build_config
    from sterf_plugins.openmmlab.runtime.dataset_images import from_dataset

    preprocessor = MODELS.build(dict(type="sterf_plugins.EventDataPreprocessor", time_steps=4))
    (image,) = from_dataset(dataset(data), preprocessor, [5], (32, 48))
    assert image.shape == (4, 1, 2, 32, 48)
    steps = dataset(data)[5]["inputs"].reshape(4, 2, 64, 96)
    wanted = torch.nn.functional.interpolate(steps, (32, 48), mode="bilinear", antialias=True)
    assert torch.equal(image[:, 0], wanted) and wanted.sum() > 100
    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    assert len(build_config(config, "detector").mean) == 2


@pytest.mark.slow
def test_fields_of_a_detector_with_time_steps_on_a_recording(forked, data, tmp_path):
    """Drawn as the config says."""
    from sterf_plugins.erf import ERFResult

    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    config.model.backbone.update(dim=32, num_heads=2)
    config.model.neck.in_channels = [8, 16, 32]
    config.dump(tmp_path / "small.py")
    options = ["--num", 1, "--input-size", 64, 96, "--temporal", "--out", tmp_path / "fields", "--layers", "backbone"]
    recording = data / "test" / "shapes000_td.h5"
    options += ["--vector", "none"]
    result = forked(ROOT / "tools" / "erf.py", tmp_path / "small.py", "--images", recording, *options)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    (file,) = (tmp_path / "fields").glob("**/*.npz")
    found = ERFResult.load(file)
    assert next(iter(found.temporal.values())).shape[-1] == 4 and found.info["num_inputs"] == 1
