"""Several trackers beside each other, from result folders in everybody's formats."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from sterf_plugins.tracking.box_metrics import PROTOCOLS, curves, mean_curves
from sterf_plugins.tracking.charts import draw_curves

TOOL = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "compare_trackers.py"
NAMES = ("bike", "dog", "bottle_dark")


@pytest.fixture
def data(tmp_path):
    """Labels of three sequences, and two trackers' results: a close one with tabs, a far one with commas or spaces."""
    rng = np.random.default_rng(0)
    truth, found = {}, {"close": {}, "far": {}}
    for name in NAMES:
        start = rng.uniform(0, 60, 2)
        truth[name] = np.concatenate([start + rng.normal(0, 2, (30, 2)).cumsum(0), np.full((30, 2), 24.0)], 1).round(3)
        truth[name][7, 2:] = 0
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        np.savetxt(folder / "groundtruth_rect.txt", truth[name], "%.3f", ",")
        for tracker, error, between in (("close", 2, "\t"), ("far", 15, ", " if name == "dog" else " ")):
            boxes = (truth[name] + rng.normal(0, error, (30, 4)) * [1, 1, 0.1, 0.1]).round(3)
            boxes[:, 2:] = boxes[:, 2:].clip(1)
            (tmp_path / tracker).mkdir(exist_ok=True)
            np.savetxt(tmp_path / tracker / f"{name}.txt", boxes, "%.3f", between)
            found[tracker][name] = boxes
    (tmp_path / "close" / "bike_time.txt").write_text("0.1\n")  # as the official results have
    return tmp_path, truth, found


def run(forked, folder, *more):
    trackers = (f"Ours={folder / 'close'}", folder / "far")
    return forked(TOOL, *trackers, "--data", folder / "data", "--layout", "fe108", "--out", folder / "out", *more)


@pytest.mark.slow
def test_numbers_plots_and_tables(forked, data):
    folder, truth, found = data
    (folder / "attributes.txt").write_text("bike fast\ndog\nbottle_dark fast dark\nother fast\n")
    done = run(forked, folder, "--per-sequence", "--attributes", folder / "attributes.txt")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((folder / "out" / "numbers.json").read_text())
    for protocol in PROTOCOLS:
        for label, tracker in (("Ours", "close"), ("far", "far")):
            every = {name: curves(found[tracker][name], truth[name], protocol=protocol) for name in NAMES}
            assert numbers[protocol][label] == pytest.approx(mean_curves(every.values()).numbers(), abs=1e-9)
        assert numbers[protocol]["Ours"]["AUC"] > numbers[protocol]["far"]["AUC"] + 20
        assert (folder / "out" / f"curves_{protocol}.png").read_bytes().startswith(b"\x89PNG")
    fast = mean_curves([every["bike"], every["bottle_dark"]]).numbers()  # of the last ones above
    text = (folder / "out" / "table.md").read_text()
    assert f"| {fast['AUC']:.1f} / {fast['PR']:.1f}" in text.rsplit("| fast", 1)[1].splitlines()[0]
    assert "3 sequences, 90 images, protocol toolkit" in text and text in done.stdout
    assert run(forked, folder, "--protocol", "toolkit").returncode == 0  # what it wrote, it may replace


@pytest.mark.slow
def test_what_is_missing_or_wrong_is_a_line(forked, data):
    folder, _, _ = data
    (folder / "names.txt").write_text("dog\n")
    assert run(forked, folder, "--names", folder / "names.txt").returncode == 0
    (folder / "attributes.txt").write_text("bike fast\n")
    bike, dog = folder / "far" / "bike.txt", folder / "far" / "dog.txt"
    short, whole = "\n".join(dog.read_text().splitlines()[:9]), dog.read_text()
    for path, text, more, message in (
        (bike, None, (), "lacks 1 of 3 sequences: bike; run its test to the end"),
        (dog, "1,2,3\n", (), "dog.txt line 1 is '1,2,3'"),
        (dog, short, (), "dog.txt, protocol 'toolkit': there are 9 predictions for 30 labels"),
        (dog, whole.replace(whole.splitlines()[3], "nan, 1, 1, 1"), (), "dog.txt, protocol 'ostrack': prediction 3 is"),
        (dog, whole, ("--attributes", folder / "attributes.txt"), "has no line for 'bottle_dark'"),
        (dog, whole, ("--layout", "visevent"), "has no folder with groundtruth.txt"),
        (dog, whole, ("--split", "train"), "is no folder"),
    ):
        before = path.read_text()
        path.unlink() if text is None else path.write_text(text)
        done = run(forked, folder, *more)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
        path.write_text(before)
    (folder / "nan").mkdir()
    for name in NAMES:
        (folder / "nan" / f"{name}.txt").write_text("nan,nan,nan,nan\n" * 30)
    done = forked(TOOL, folder / "nan", "--data", folder / "data", "--layout", "fe108", "--out", folder / "out")
    assert done.returncode == 2 and "nan has no box, only lines of NaN" in done.stderr
    done = forked(TOOL, folder / "far", folder / "none", "--data", folder / "data", "--layout", "fe108")
    assert done.returncode == 2 and "none is no folder of results" in done.stderr
    done = forked(TOOL, folder / "far", folder / "far", "--data", folder / "data", "--layout", "fe108")
    assert done.returncode == 2 and "two trackers are called 'far'" in done.stderr
    (folder / "mine").mkdir()
    (folder / "mine" / "table.md").write_text("mine")
    done = run(forked, folder, "--out", folder / "mine")
    assert done.returncode == 2 and "which compare_trackers did not write there" in done.stderr
    assert (folder / "mine" / "table.md").read_text() == "mine"


def test_names_and_folders_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare_trackers.py"])
    folders = runpy.run_path(str(TOOL), run_name="tool")["folders"]
    odd = tmp_path / "lr=0.1" / "boxes"
    odd.mkdir(parents=True)
    assert folders([f"Ours={odd}", str(odd), f"={odd.parent}"]) == {"Ours": odd, "boxes": odd, "lr=0.1": odd.parent}


def test_plots_have_the_curves_and_a_legend_best_first(data):
    _, truth, found = data
    means = {
        name: mean_curves(curves(boxes[n], truth[n]) for n in NAMES)
        for name, boxes in (("a", found["far"]), ("b", found["close"]))
    }
    success, precision = draw_curves(means, "a note").axes
    for ax, curve, key in ((success, "success", "AUC"), (precision, "precision", "PR")):
        lines = {
            line.get_label().split()[0]: line.get_ydata() for line in ax.get_lines() if line.get_label()[0] in "ab"
        }
        assert all(np.array_equal(lines[name], getattr(means[name], curve)) for name in means)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == [f"{name} [{means[name].numbers()[key]:.1f}]" for name in ("b", "a")]
