"""Success, precision and normalised precision against two toolkits."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from golden_trackers import arrays
from tracking_data import make

from sterf_plugins.tracking.box_metrics import PROTOCOLS, curves, mean_curves
from sterf_plugins.tracking.results import evaluate, read_absences, read_labels
from sterf_plugins.tracking.sequences import find_sequences


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_curves_are_those_of_the_toolkits(protocol):
    golden = arrays("metrics")
    name = {"toolkit": "toolkit", "ostrack": "python"}[protocol]
    found = []
    for i in range(4):
        one = curves(golden[f"pred{i}"], golden[f"gt{i}"], golden[f"absent{i}"], protocol)
        for curve in ("success", "precision", "norm_precision"):
            wanted = golden[f"{name}_{curve}{i}"]
            assert np.ptp(wanted) > 0
            assert getattr(one, curve) == pytest.approx(wanted / (100 if wanted.max() > 1 else 1), abs=1e-9), curve
        found.append(one)
    numbers = mean_curves(found, protocol).numbers()
    for key in ("AUC", "PR", "NPR"):
        assert numbers[key] == pytest.approx(float(golden[f"{name}_{key}"]), abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_boxes_of_whole_numbers_at_thresholds_count_as_in_the_toolkits(protocol):
    """Their formulas as plain loops: a centre is divided by the label's size before the other is subtracted from it."""
    rng, matlab = np.random.default_rng(1), protocol == "toolkit"
    up = [0.05 * k if k < 11 or not matlab else 1 - 0.05 * (20 - k) for k in range(21)]  # MATLAB's 0:0.05:1
    labels = np.concatenate([rng.integers(5, 150, (1500, 2)), rng.integers(4, 60, (1500, 2))], 1).astype(float)
    boxes = labels + rng.normal(0, 6, labels.shape).round()
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    labels[1], boxes[1] = (10, 10, 20, 20), (10, 10, 13, 20)
    labels[2], boxes[2:4] = (
        np.nan,
        0,
    )  # a prediction without area stays where the label is NaN, and is repeated after it
    success, precision, norm_precision = np.zeros(21), np.zeros(51), np.zeros(51)
    for i, (label, box) in enumerate(zip(labels.tolist(), boxes.tolist(), strict=True)):
        (x, y, w, h), (u, v, a, b) = label, box if i else label
        sides = min(u + a - 1, x + w - 1) - max(u, x) + 1, min(v + b - 1, y + h - 1) - max(v, y) + 1
        common = max(sides[0], 0) * max(sides[1], 0)
        overlap = common / (a * b + w * h - common)
        points = (u + (a - 1) / 2, v + (b - 1) / 2), (x + (w - 1) / 2, y + (h - 1) / 2)
        error = math.dist(*points)
        norm_error = math.hypot(points[0][0] / w - points[1][0] / w, points[0][1] / h - points[1][1] / h)
        if i == 2:
            overlap, error, norm_error = -1, -1 if matlab else math.inf, -1
        success += [overlap > t for t in up]
        precision += [error <= k for k in range(51)]
        norm_precision += [norm_error <= k / 100 for k in range(51)]
    found = curves(boxes, labels, protocol=protocol)
    for curve, counts in (("success", success), ("precision", precision), ("norm_precision", norm_precision)):
        assert (np.rint(1500 * getattr(found, curve)) == counts).all(), curve


def test_the_table_of_conventions_in_the_docs_is_what_its_script_says():
    docs = Path(__file__).resolve().parents[2] / "docs"
    script = runpy.run_path(str(docs / "box_conventions.py"), run_name="script")
    assert script["table"]() in (docs / "tracking.md").read_text()


def test_counting_whole_pixels_alike_everywhere_changes_nothing():
    """Right edges x + w - 1, sides of overlaps plus 1, and centres x + (w - 1) / 2 are plain geometry of x, y, w, h."""
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([rng.uniform(1, 30, (50, 2)), rng.uniform(5, 30, (50, 2))], 1) for _ in range(2))
    a[0] = b[0]
    stop, start = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]), np.maximum(a[:, :2], b[:, :2])
    common = (stop - start).clip(0).prod(1)
    overlap = common / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - common)
    error = np.linalg.norm(a[:, :2] + a[:, 2:] / 2 - b[:, :2] - b[:, 2:] / 2, axis=1)
    inclusive = (np.minimum(a[:, :2] + a[:, 2:] - 1, b[:, :2] + b[:, 2:] - 1) - start + 1).clip(0).prod(1)
    assert inclusive == pytest.approx(common, abs=1e-9)
    found = curves(a, b)
    assert found.success == pytest.approx((overlap[:, None] > np.linspace(0, 1, 21)).mean(0), abs=1e-12)
    assert found.precision == pytest.approx((error[:, None] <= np.arange(51)).mean(0), abs=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_boxes_are_hits_at_every_threshold(protocol):
    """Also at 0 pixels, whatever numbers the boxes have: the first box of a sequence always is the label."""
    boxes = np.random.default_rng(0).uniform(1, 50, (200, 4)).round(1)
    found = curves(boxes, boxes, protocol=protocol)
    assert (found.precision == 1).all() and (found.norm_precision == 1).all() and (found.success[:-1] == 1).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_that_say_nothing(protocol):
    """A label of NaN counts as one without area: a miss in AUC; in PR a hit of one toolkit, in NPR of both."""
    truth = np.tile([10.0, 20, 16, 12], (5, 1))
    without, unknown = truth.copy(), truth.copy()
    without[2], unknown[2] = 0, np.nan
    first, second = (curves(truth, labels, protocol=protocol).numbers() for labels in (without, unknown))
    assert first == second and first["OP50"] == 80 and first["NPR"] == 100
    assert first["PR"] == (100 if protocol == "toolkit" else 80)
    for labels in (np.zeros((5, 4)), np.full((5, 4), np.nan)):
        with pytest.raises(ValueError, match="none of 5 labels is a box with an area"):
            curves(truth, labels, protocol=protocol)
    for name, given in (("predicted", (truth[0], truth)), ("labels", (truth, truth[:, :3]))):
        with pytest.raises(ValueError, match=rf"`{name}` has shape .*; it must be \(frames, 4\)"):
            curves(*given, protocol=protocol)
    with pytest.raises(ValueError, match="no sequence to take the mean of"):
        mean_curves([])


def test_lines_that_are_missing_count_as_missed():
    """OSTrack's toolkit repeats the box before where one has no size, and adds zeros for missing lines after that."""
    truth = np.tile([10.0, 20, 16, 12], (5, 1))
    found = truth[:4].copy()
    found[3] = 0
    numbers = curves(found, truth, protocol="ostrack").numbers()
    assert (numbers["OP50"], numbers["PR"], numbers["NPR"]) == (80, 80, 80)
    near = curves(found, truth - [10, 20, 0, 0], protocol="ostrack")  # centres at -0.5, those of labels at 7.5 and 5.5
    assert near.precision[[9, 10]] == pytest.approx([0.2, 0.4])
    with pytest.raises(ValueError, match="there are 4 predictions for 5 labels; run the test to its end"):
        curves(found, truth)


def test_a_sequence_in_which_nothing_is_hit():
    """The MATLAB toolkit leaves it out of the mean; the Python one counts it. The first box is a hit unless its label is none."""
    truth = np.tile([10.0, 20, 16, 12], (5, 1))
    lost = truth.copy()
    lost[0] = 0
    for protocol, auc in (("toolkit", 20 / 21), ("ostrack", 10 / 21)):
        every = [curves(truth, truth, protocol=protocol), curves(truth + 500, lost, protocol=protocol)]
        assert not every[1].success.any()
        assert mean_curves(every, protocol).numbers()["AUC"] == pytest.approx(100 * auc)


def test_images_without_the_object_are_no_hits(tmp_path):
    """VisEvent's absent_label.txt has a 1 where the object is there, and begins with the recording, labels with the object."""
    make(tmp_path, "visevent", "test", ["a"])  # whose eighth label is 0,0,0,0, nearly: a hit in precision by itself
    folder = tmp_path / "test" / "a"
    labels = read_labels(tmp_path, "visevent")
    results = tmp_path / "results"
    results.mkdir()
    np.savetxt(results / "a.txt", labels["a"].clip(1))

    def precision() -> float:
        absences = read_absences(tmp_path, "test", labels)
        (sequence,) = find_sequences(tmp_path, "visevent", "test")
        assert np.array_equal(sequence.absent, absences["a"])
        return evaluate(results, labels, "toolkit", absences)["a"].numbers()["PR"]

    assert precision() == 100
    there = ["1"] * 40
    there[7] = "0"
    for lines in (there, ["0", "0", *there]):
        (folder / "absent_label.txt").write_text("\r\n".join(lines))
        assert precision() == pytest.approx(100 * 39 / 40)
    for lines, message in (
        (["1"] * 39, "has 39 lines from the first 1 on, and there are 40 labels"),
        (["0"] * 39, "has 39 lines"),
        (["1"] * 39 + ["2"], "has the line '2'; it must be 1 where the object is there"),
    ):
        (folder / "absent_label.txt").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=message):
            precision()


@pytest.mark.parametrize("error", [0, 3])
def test_results_in_another_form_are_told_where_it_is_certain(tmp_path, error):
    rng = np.random.default_rng(0)
    labels = {
        name: np.concatenate([rng.uniform(5, 90, (9, 2)), rng.uniform(10, 40, (9, 2))], 1).round(1) for name in "ab"
    }

    def told(change, protocol="toolkit"):
        for name, truth in labels.items():
            boxes = truth + error * rng.random(truth.shape).round(2)
            boxes[0] = truth[0]
            np.savetxt(tmp_path / f"{name}.txt", change(boxes))
        return evaluate(tmp_path, labels, protocol)

    assert told(lambda boxes: boxes)["a"].numbers()["PR"] == 100
    with pytest.raises(ValueError, match=r"has two corners in each line: .* write w = x2 - x1"):
        told(lambda boxes: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    with pytest.raises(ValueError, match=r"has two corners in each line"):  # also if a line says that nothing was seen
        told(lambda boxes: np.r_[np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]][:-1], np.zeros((1, 4))])
    with pytest.raises(ValueError, match=r"has the centre of each box for its corner: .* subtract half of w and of h"):
        told(lambda boxes: np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1))
    with pytest.raises(ValueError, match=r"has no number above 1; boxes are x, y, w, h in pixels"):
        told(lambda boxes: boxes / 200)
    labels["a"][:, :2], labels["b"][:, :2] = 1, 1  # here both forms are nearly the same: nothing is certain
    assert told(lambda boxes: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
