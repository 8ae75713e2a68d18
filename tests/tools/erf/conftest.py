"""What the tests of tools/erf.py share: the tool in a fork, and photographs."""

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


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60 + i, 90, 3), np.uint8)).save(folder / f"{i}.png")
    return folder
