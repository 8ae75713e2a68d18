"""The tracking demo from recordings to the page, with its real tools, at sizes that take seconds."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("faery", reason="the extra [events] is missing")
pytest.importorskip("dv_processing", reason="the extra [events] is missing")

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def demo(forked, monkeypatch):
    """The demo as a module, whose steps run in forks, the names of the tools that it has run, and of those not to run."""
    spec = importlib.util.spec_from_file_location("demo_tracking", TOOLS / "demo_tracking.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ran, left_out = [], set()

    def run(self, *command):
        ran.append(Path(command[0]).name)
        if ran[-1] in left_out:
            return
        done = forked(*command)
        assert done.returncode == 0, (command, done.stderr[-3000:])

    monkeypatch.setattr(module.Steps, "run", run)
    return module, ran, left_out


@pytest.mark.slow
def test_all_steps_and_a_second_run(demo, tmp_path, monkeypatch, capsys):
    module, ran, left_out = demo
    out, data = tmp_path / "out", tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["demo_tracking.py", "--tiny", "--out", str(out), "--data", str(data)])
    module.main()
    assert [ran.count(name) for name in ("make_tracking.py", "make_gtp.py", "train.py", "test.py", "track.py")] == [
        2,
        2,
        2,
        4,
        1,
    ]
    said = capsys.readouterr().out
    assert said.count("conv: AUC") == said.count("srb: AUC") == 2 and said.count("stay at the first box: AUC") == 2
    page = (out / "report.html").read_text()
    assert "expected: 90 or more" in page and "<svg" in page
    assert (
        page.count("<source media=") == 2 and page.count("data:image/webp") == 5
    )  # curves, wide and narrow; the video
    assert cv2.VideoCapture(str(out / "followed.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 20
    followed = np.loadtxt(out / "srb" / "results_fe108" / "disc02.txt")
    labels = np.loadtxt(data / "fe108" / "test" / "disc02" / "groundtruth_rect.txt", delimiter=",")
    assert followed.shape == labels.shape == (20, 4) and np.array_equal(followed[0], labels[0])
    ran.clear()
    left_out |= {"compare_trackers.py", "demo_tracking_report.py"}  # which would make the same files again
    module.main()
    assert {"train.py", "test.py", "track.py"}.isdisjoint(ran) and "demo_tracking_report.py" in ran
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "1"])
    with pytest.raises(ValueError, match="is not of this training with these settings; move it away"):
        module.main()
