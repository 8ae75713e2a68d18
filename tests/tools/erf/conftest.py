"""What the tests of tools/erf.py share: the tool in a fork, its part that computes, and photographs."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "erf.py"


@pytest.fixture(scope="session")
def run(forked):
    def run_tool(*arguments, check=True, cwd=None, **environment):
        # a second format of all figures is half of the tool's time
        result = forked(TOOL, "--vector", "none", *arguments, cwd=cwd, environment=environment)
        assert not check or result.returncode == 0, result.stderr[-2000:]
        return result

    return run_tool


@pytest.fixture
def compute(monkeypatch):
    """``compute(*arguments)``: the result of one model and size as the tool has it, in this process and without a report.

    The figures of a report take longer than small fields.
    """
    monkeypatch.setattr("sterf_plugins.cli.begin.begin", lambda: None)
    tool = runpy.run_path(str(TOOL))

    def run_tool(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        args = tool["arguments"]()
        (job,) = tool["jobs"](args)
        *_, size = tool["image_sizes"](args, tool["first_model"](args))
        return tool["compute"](args, job, size, Path(args.out), args.theory)

    return run_tool


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60 + i, 90, 3), np.uint8)).save(folder / f"{i}.png")
    return folder
