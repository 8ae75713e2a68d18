"""The steps of a demo: those in the background, and their threads."""

import time

import pytest

from sterf_plugins.cli.demo.steps import Steps

WAITS = """
import sys, time
from pathlib import Path

here = Path(sys.argv[1])
print("began", flush=True)
(here / "began").touch()
try:
    while not (here / "go").exists():
        time.sleep(0.01)
    (here / "finished").touch()
except KeyboardInterrupt:
    (here / "interrupted").touch()
    sys.exit(130)
"""


@pytest.fixture
def steps(tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    return Steps("demo", tmp_path)


def wait_for(path):
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{path.name} does not come")


def test_a_step_in_the_background_runs_beside_others(steps, tmp_path, capsys):
    output = tmp_path / "output.txt"
    with steps.beside(output, tmp_path / "waits.py", tmp_path):
        wait_for(tmp_path / "began")
        assert not (tmp_path / "finished").exists()
        (tmp_path / "go").touch()
    assert (tmp_path / "finished").exists() and output.read_text() == "began\n"
    assert capsys.readouterr().out == "$ python waits.py . &> output.txt &\n"


def test_a_step_in_the_background_that_fails_ends_the_demo_after_the_block(steps, tmp_path):
    (tmp_path / "fails.py").write_text("raise ValueError('no data')")
    output, finished = tmp_path / "output.txt", []
    with (
        pytest.raises(SystemExit, match=r"background failed with exit code 1; .*output.txt says why"),
        steps.beside(output, tmp_path / "fails.py"),
    ):
        finished.append("block")
    assert finished == ["block"] and "no data" in output.read_text()


def test_a_step_in_the_background_is_interrupted_with_the_demo(steps, tmp_path):
    with pytest.raises(KeyboardInterrupt), steps.beside(tmp_path / "output.txt", tmp_path / "waits.py", tmp_path):
        wait_for(tmp_path / "began")
        raise KeyboardInterrupt
    assert (tmp_path / "interrupted").exists() and not (tmp_path / "finished").exists()


@pytest.mark.parametrize(("own", "seen"), [(None, "1"), ("3", "3")])
def test_threads_of_the_steps(tmp_path, monkeypatch, own, seen):
    """A number that the user has set stays."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    (tmp_path / "threads.py").write_text(
        "import os, sys\nfrom pathlib import Path\nPath(sys.argv[1]).write_text(os.environ['OMP_NUM_THREADS'])"
    )
    Steps("demo", tmp_path, threads=1).run(tmp_path / "threads.py", tmp_path / "seen.txt")
    assert (tmp_path / "seen.txt").read_text() == seen
