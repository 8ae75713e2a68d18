"""The box filter, and the metric that uses it."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from mmengine.structures import InstanceData

from sterf_plugins.openmmlab.events.metric import BOX_FILTERS, kept


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
    for options, message in (
        (dict(box_filter=dict(skip_time="a")), r"`box_filter\['skip_time'\]` is 'a'"),
        (dict(from_first_event="yes"), "`from_first_event` is 'yes'"),
        (dict(metric="segm"), "`metric` has 'segm', and labels of recordings have no masks"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            average_precision(**options)
    with pytest.raises(ValueError, match="two images have the id 0, so that boxes of one would count in the other"):
        samples[3]["img_id"] = 0  # as of the first images of two data sets
        average_precision()
    del samples[0]["time"]
    with pytest.raises(ValueError, match="PackDetInputs left out time"):
        average_precision()


def test_predictions_are_written_without_true_boxes(tmp_path):
    """As for a public test set, whose boxes are kept; the filter takes small ones out of the file."""
    options = dict(box_filter="gen1", format_only=True, outfile_prefix=str(tmp_path / "found"))
    metric = METRICS.build(dict(type="sterf_plugins.EventCocoMetric", **options))
    metric.dataset_meta = dict(classes=("car",))
    metric.process({}, [sample(7, 600_000, [], [[10, 10, 60, 60], [1, 1, 5, 5]])])
    assert metric.evaluate(1) == {}
    assert [found["image_id"] for found in json.loads((tmp_path / "found.bbox.json").read_text())] == [7]
