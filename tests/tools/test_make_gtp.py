"""Event images of a data set from real event files, made by the real tool and read by the data set."""

import json
import runpy
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("faery", reason="the extra [events] is missing")
pytest.importorskip("dv_processing", reason="the extra [events] is missing")

from sterf_plugins.events import Events, Frame, gtp, open_recording, write_recording
from sterf_plugins.tracking.recordings import find_recorded_sequences
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
    if rule == "clean":  # as a data set makes them without any file
        (recorded, _) = find_recorded_sequences(data, "fe108", "train", 2)
        assert all(np.array_equal(a, b) for a, b in zip(recorded.images(), sequence.images(), strict=True))
        assert np.array_equal(recorded.image(4), sequence.image(4))


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
        (["--amount", "40"], "has images of another amount: 30, and here it is 40; move it away or give --overwrite"),
        (["--steps", "4", "--rule", "parity", "--decay", "high"], "invalid float value"),
    ):
        done = forked(*run, *options)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    mine = data / "train" / "dog" / "inter1_stack_3008" / "mine.txt"
    mine.write_text("a file of the user")
    (data / "train" / "bike" / "events.aedat4").rename(data / "moved.aedat4")
    done = forked(*run, "--amount", "40", "--overwrite")  # neither can be made, and nothing goes
    assert done.returncode == 2 and "0 recordings" in done.stderr and "1 more of 2 sequences" in done.stderr, (
        done.stderr
    )
    assert mine.is_file() and (data / "train" / "bike" / "inter1_stack_3008" / "0001_1.png").is_file()
    mine.unlink()
    (data / "moved.aedat4").rename(data / "train" / "bike" / "events.aedat4")
    (data / "pair.txt").write_text("bike 6\n")
    for steps, message in (("2", "has 4 frames from number 6 on, and 6 labels"), ("4", "has 4 frames")):
        done = forked(*run, "--steps", steps)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
        assert not list(data.glob(f"train/*/*inter{steps}*"))
    (data / "pair.txt").write_text("bike 0\n")
    done = forked(*run, "--steps", "2", "--interval", "20000", "--jobs", "2")
    assert done.returncode == 0 and "2 sequences made" in done.stdout and "pair.txt" not in done.stdout, done.stderr
    (data / "pair.txt").unlink()
    done = forked(*run, "--steps", "4")
    assert done.returncode == 0 and "images begin with the first frame of each recording" in done.stdout, done.stderr


def test_images_of_other_labels_or_another_recording_are_made_again(tmp_path, monkeypatch):
    """A line more in the labels: the images that are there do not fit any more, and --overwrite replaces them."""
    monkeypatch.setattr("sys.argv", ["make_gtp.py", str(tmp_path), "--layout", "fe108", "--interval", "1000"])
    tool = runpy.run_path(str(TOOL), run_name="tool")
    args, folder = tool["parse_args"](), tmp_path / "train" / "bike"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, limit, 500) for limit in (30, 20, 2)]
    write_recording(folder / "events.npz", Events.of(np.sort(rng.integers(0, 5000, 500)), *columns), (20, 30))
    labels, images = folder / "groundtruth_rect.txt", folder / "inter1_stack_3008"
    labels.write_text("1,1,5,5\n" * 4)
    assert [tool["make"](args, folder) for _ in range(2)] == ["made", "there"]
    old = json.loads((images / "gtp.json").read_text())
    (images / "gtp.json").write_text(json.dumps({key: old[key] for key in list(old)[:-6]}))
    assert tool["make"](args, folder) == "there"  # as version 0.1 wrote it
    args.sensor = [24, 32]
    with pytest.raises(ValueError, match=r"has images of another sensor: None, and here it is \[24, 32\]"):
        tool["make"](args, folder)
    args.overwrite = True
    assert tool["make"](args, folder) == "made" and cv2.imread(str(images / "0001_1.png")).shape == (24, 32, 3)
    args.sensor = None
    assert [tool["make"](args, folder) for _ in range(2)] == ["made", "there"]
    args.overwrite = False
    old = json.loads((images / "gtp.json").read_text())
    (images / "gtp.json").write_text(json.dumps(old))
    (images / "0003_1.png").unlink()
    assert [tool["make"](args, folder) for _ in range(2)] == ["made", "there"] and (images / "0003_1.png").is_file()
    labels.write_text("1,1,5,5\n" * 5)
    with pytest.raises(ValueError, match="has images of another number of labels: 4, and here it is 5"):
        tool["make"](args, folder)
    args.overwrite = True
    assert tool["make"](args, folder) == "made" and len(list(images.glob("*_1.png"))) == 5
    args.overwrite = False
    other = Events.of(np.sort(rng.integers(0, 5000, 499)), *(column[1:] for column in columns))
    write_recording(folder / "events.npz", other, (20, 30))
    with pytest.raises(ValueError, match=r"has images of another length of the recording: \d+, and here it is \d+"):
        tool["make"](args, folder)
    (folder / "events.npz").unlink()  # for room
    assert tool["make"](args, folder) == "there"


def test_a_process_that_the_system_kills():
    """As where memory is short: the others would wait for ever for its sequence."""
    tool = runpy.run_path(str(TOOL), run_name="tool")
    bar = SimpleNamespace(update=lambda: None)
    assert sorted(tool["in_processes"](abs, [-3, 2], 2, bar)) == [2, 3]
    with pytest.raises(ValueError, match=r"--jobs 2: one of the processes was killed, .* memory is short; give fewer"):
        tool["in_processes"](signal.raise_signal, [signal.SIGKILL, 0], 2, bar)


# Kills itself as soon as one of its two worker processes has done its work, while the other one is at its own.
KILLED = """
import multiprocessing, os, runpy, signal, sys, time
from types import ModuleType, SimpleNamespace

def end():
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

tool = runpy.run_path(sys.argv[1], run_name="tool")
sys.modules["__main__"] = ModuleType("__main__")  # which the workers import
tool["in_processes"](time.sleep, [0, 20], 2, SimpleNamespace(update=end))
"""


def is_running(process: int) -> bool:
    """Whether there is such a process, and not only its exit code, for which nobody has asked yet."""
    state = Path(f"/proc/{process}/stat")
    return state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc, as Linux has it")
def test_no_process_stays_behind_when_the_tool_is_killed(forked):
    done = forked("-c", KILLED, TOOL)
    workers = list(map(int, done.stdout.split()))
    assert done.returncode == -signal.SIGKILL and len(workers) == 2, done.stderr
    end = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


# The tool with a largest size of a file, in bytes: what a full disk does. What it says does not count.
LIMITED = """
import contextlib, io, resource, runpy, signal, sys
limit, *sys.argv = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
said = io.StringIO()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
try:
    with contextlib.redirect_stderr(said):
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(said.getvalue(), file=sys.stderr)
"""


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3000])


def without_times(file: Path) -> None:
    events = open_recording(file).events()
    write_recording(file, events, (40, 60), [Frame(0, 0, np.zeros((40, 60), np.uint8))] * 9)


def of_another_clock(file: Path) -> None:
    events = open_recording(file).events()
    write_recording(file, events._replace(t=events.t - START), (40, 60), list(open_recording(file).frames()))


def without_frames(file: Path) -> None:
    write_recording(file.with_suffix(".h5"), open_recording(file), (40, 60))
    file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (cut, [], "events.aedat4 cannot be read as an event file: failed to fill whole buffer. It may be cut off"),
        (without_times, [], "all frame times are 0; give times in another way, such as an interval"),
        (of_another_clock, [], "has no event from 1600000000080000 to 1600000000320000 µs, the times of its images"),
        (without_frames, [], "events.h5 has no frames beside its events"),
        (lambda file: file.write_bytes(b""), [], "events.aedat4 cannot be read as an event file"),
        (Path.unlink, [], "dog has 0 recordings events.* or dog.*; it must have one"),
        (
            lambda file: file.with_name("groundtruth_rect.txt").write_text("5 5 20\n"),
            [],
            "line 1 is '5 5 20'; it must be four",
        ),
        (
            lambda file: file.parents[2].joinpath("pair.txt").write_text("bike 2\ndog two\n"),
            [],
            "pair.txt has 'two' for 'dog'",
        ),
        (None, ["--interval", "0"], "`--interval` is 0; it must be an int >= 1"),
        (None, ["--decay", "nan"], "`decay` is nan; it must be a number from 0 to 1"),
        (None, ["--trajectory", "0"], "`trajectory` is 0; it must be an int >= 1"),
    ],
)
def test_mistakes(forked, data, change, options, message):
    """One line; the other sequence is made, and nothing is left of the one that could not be."""
    if change is not None:
        change(data / "train" / "dog" / "events.aedat4")
    done = forked(TOOL, data, "--layout", "fe108", *options, "--jobs", "1")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    made = {path.parent.name for path in data.glob("train/*/*inter1*")}
    assert made == ({"bike"} if change else set()) and not list(data.rglob("*partial*"))


@pytest.mark.slow
def test_a_full_disk(forked, data):
    done = forked("-c", LIMITED, 300, TOOL, data, "--layout", "fe108")
    assert done.returncode == 2 and "inter1_stack_3008 cannot be written (File too large)" in done.stderr, done.stderr[
        -1500:
    ]
    assert "(and 1 more of 2 sequences failed)" in done.stderr and "Traceback" not in done.stderr
    assert not list(data.rglob("*inter1*"))
