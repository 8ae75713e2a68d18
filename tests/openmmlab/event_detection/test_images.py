"""Detection on event recordings: the images and boxes that the data set gives."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from sterf_plugins.events import Events, histogram, open_recording, trajectory_prompt, write_recording
from sterf_plugins.openmmlab.configs.reading import load_config
from sterf_plugins.openmmlab.events.loading import LoadEvents

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "event_detection"


def test_arrays_and_coco_give_the_same_images_and_boxes(data, dataset):
    arrays, coco = dataset(data), dataset(data, ann_file="annotations/train.json")
    assert len(arrays) == len(coco) == 4 * 20
    for index in (0, 7, 79):
        one, other = arrays[index], coco[index]
        assert torch.equal(one["inputs"], other["inputs"]) and one["inputs"].shape == (8, 64, 96)
        boxes, others = (sample["data_samples"].gt_instances for sample in (one, other))
        assert torch.equal(boxes.bboxes.tensor, others.bboxes.tensor) and torch.equal(boxes.labels, others.labels)
        assert boxes.labels.tolist() == [0, 1, 2]


def test_an_image_has_the_events_before_its_boxes(data, dataset):
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
def test_trajectories_remember_the_window_before(data, dataset, options, parts):
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
def test_windows_by_count_and_other_formats(data, dataset, tmp_path):
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


def test_boxes_before_the_first_events_have_empty_images(data, dataset, tmp_path):
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


def test_a_flip_takes_events_and_boxes_along(data, dataset):
    plain, flipped = dataset(data)[10], dataset(data, [dict(type="RandomFlip", prob=1.0)])[10]
    assert torch.equal(flipped["inputs"], plain["inputs"].flip(-1))
    boxes = [sample["data_samples"].gt_instances.bboxes.tensor for sample in (plain, flipped)]
    torch.testing.assert_close(boxes[1][:, 0], 96 - boxes[0][:, 2])


def test_a_changed_recording_is_read_again(data, dataset, tmp_path):
    root = tmp_path / "changed"
    shutil.copytree(data / "train", root / "train")
    before = dataset(root)[0]["inputs"].sum()
    path = root / "train" / "shapes000_td.h5"
    events = open_recording(path).events()
    write_recording(path, Events(*(column[::2] for column in events)), (64, 96))
    assert 0 < dataset(root)[0]["inputs"].sum() < before


def test_images_become_time_steps(data, dataset):
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


@pytest.mark.slow
def test_two_workers_give_the_same_images(data, dataset):
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader, Subset

    def images(**options) -> list[torch.Tensor]:
        loader = DataLoader(Subset(dataset(data), range(0, 80, 4)), batch_size=7, collate_fn=pseudo_collate, **options)
        return [image for _ in range(2) for batch in loader for image in batch["inputs"]]

    one, several = images(), images(num_workers=2, persistent_workers=True)
    assert len(one) == len(several) == 2 * 20 and all(map(torch.equal, one, several))


def test_images_with_time_steps_are_resized(data, dataset):
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
