"""timm's own tests, and its training, validation, benchmark and inference scripts, on our models."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture
def run(forked, tmp_path):
    """``run(*command, **environment)``: output of a Python program that must succeed; it sees our models."""

    def call(*command: str, **environment: str) -> str:
        done = forked(*command, cwd=tmp_path, environment=dict(PYTHONPATH=HERE, **environment))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return call


@pytest.mark.sweep
def test_timms_tests_pass(run, small_name, timm_source):
    """All tests of models but those of TorchScript, which is refused (``test_torchscript_is_refused``)."""
    tests = timm_source("tests/test_models.py") / "tests" / "test_models.py"
    options = (
        "-q",
        "-p",
        "only_ours",
        "-p",
        "no:cacheprovider",
        "--assert=plain",
        "-c",
        os.devnull,
        "-k",
        f"{small_name} and not torchscript",
    )
    environment = dict(STERF_NAMES=small_name, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    output = run("-m", "pytest", *options, str(tests), **environment)
    # forward, backward, configuration, features by three ways, pruning, fx forward and backward
    assert int(re.search(r"(\d+) passed", output)[1]) == 9 and "skipped" not in output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of coloured noise, for training and for validation."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for i in range(2):
            (root / split / f"class{i}").mkdir(parents=True)
            for n in range(4):
                pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
                pixels[..., i] += 120
                Image.fromarray(pixels).save(root / split / f"class{i}" / f"{n}.png")
    return root


def test_timms_scripts_run(run, small_name, timm_source, folder, tmp_path):
    """A training with dropout and stochastic depth; its checkpoint is validated and predicts; the benchmark of both."""
    scripts = timm_source("train.py")

    def script(name: str, *options: str) -> str:
        code = f"import sterf_plugins.timm, runpy; runpy.run_path({str(scripts / name)!r}, run_name='__main__')"
        return run("-c", code, "--model", small_name, "--device", "cpu", *options)

    size = ("--input-size", "3", "64", "64", "--num-classes", "2")
    data = ("--data-dir", str(folder), "--workers", "0", "--batch-size", "4", *size)
    out = tmp_path / "out" / "run"
    script("train.py", *data, "--epochs", "1", "--warmup-epochs", "0", "--drop", "0.1", "--drop-path", "0.1",
           "--output", str(out.parent), "--experiment", out.name)  # fmt: skip
    checkpoint = ("--checkpoint", str(out / "last.pth.tar"))
    assert "Acc@1" in script("validate.py", *data, "--split", "validation", *checkpoint)
    script("inference.py", *data, "--split", "validation", *checkpoint, "--results-dir", str(tmp_path / "results"))
    assert len((next((tmp_path / "results").glob("*.csv"))).read_text().splitlines()) == 9
    told = script(
        "benchmark.py", "--bench", "both", "--batch-size", "2", *size, "--num-warm-iter", "1", "--num-bench-iter", "2"
    )
    assert "infer_samples_per_sec" in told and "train_samples_per_sec" in told
