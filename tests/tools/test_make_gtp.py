"""Event images of a data set from real event files, made by the real tool and read by the data set."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faery", reason="the extra [events] is missing")
pytest.importorskip("dv_processing", reason="the extra [events] is missing")

from sterf_plugins.events import Events, Frame, gtp, open_recording, write_recording
from sterf_plugins.tracking.sequences import find_sequences

TOOL = Path(__file__).resolve().parents[2] / "tools" / "dataset_tools" / "make_gtp.py"
START, GAP = 1_600_000_000_000_000, 40_000


@pytest.fixture
def data(tmp_path):
    """Two sequences in FE108's folders, with frames in the recordings; the images begin with the third frame."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for name in ("bike", "dog"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        t = np.sort(rng.integers(START, START + 12 * GAP, 3000))
        events = Events.of(t, rng.integers(0, 60, 3000), rng.integers(0, 40, 3000), rng.integers(0, 2, 3000))
        frames = [Frame(int(START + i * GAP), 0, np.zeros((40, 60), np.uint8)) for i in range(10)]
        write_recording(folder / "events.aedat4", events, (40, 60), frames)
        np.savetxt(folder / "groundtruth_rect.txt", np.tile([5.0, 5, 20, 10], (6, 1)), "%g", ",")
    (root / "pair.txt").write_text("bike 2\ndog 2\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["clean", "parity"])
def test_images_on_disk_are_those_made_on_the_fly(forked, data, rule):
    done = forked(TOOL, data, "--layout", "fe108", "--steps", "2", "--rule", rule)
    assert done.returncode == 0 and "2 sequences made, 0 were there" in done.stdout, done.stderr
    (sequence, _) = find_sequences(data, "fe108", "train", T=2)
    times = START + GAP * np.arange(2, 9)
    made = {
        (i.interval, i.part): i.pixels
        for i in gtp(open_recording(data / "train/bike/events.aedat4"), times, 2, rule=rule)
    }
    assert len(made) == 12
    for frame in range(6):
        assert np.array_equal(sequence.image(frame), np.stack([made[frame, 0], made[frame, 1]]))
    assert sequence.image(3).std() > 0


@pytest.mark.slow
def test_a_second_run_goes_on_and_refuses_a_mix(forked, data):
    run = [TOOL, data, "--layout", "fe108"]
    assert forked(*run).returncode == 0
    shutil.rmtree(data / "train" / "dog" / "inter1_stack_3008")
    kept = (data / "train" / "bike" / "inter1_stack_3008" / "0001_1.png").stat().st_mtime_ns
    done = forked(*run)
    assert "1 sequences made, 1 were there" in done.stdout
    assert (data / "train" / "bike" / "inter1_stack_3008" / "0001_1.png").stat().st_mtime_ns == kept
    assert json.loads((data / "train" / "dog" / "inter1_stack_3008" / "gtp.json").read_text())["amount"] == 30
    for options, message in (
        (["--amount", "40"], "has images of other settings"),
        (["--steps", "4", "--rule", "parity", "--decay", "high"], "invalid float value"),
    ):
        done = forked(*run, *options)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    (data / "pair.txt").write_text("bike 6\n")
    for steps, message in (("2", "has 4 frames from number 6 on, and 6 labels"), ("4", "has 4 frames")):
        done = forked(*run, "--steps", steps)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
        assert not list(data.glob(f"train/*/*inter{steps}*"))
    done = forked(*run, "--steps", "2", "--interval", "20000", "--jobs", "2")
    assert done.returncode == 0 and "2 sequences made" in done.stdout, done.stderr
