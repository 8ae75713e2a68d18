"""The names of our timm models, and timm's source, whose tests and scripts run on them."""

import os
import re
from pathlib import Path

import pytest
import timm

import sterf_plugins.timm  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("sterf_plugins.")]
# a small name of each family
SMALL = [
    *("sdtv3_nano_srb", "spikformer_8_384", "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384", "max_former_10_384"),
    *("covrf_resnet18", "covrf_sdtv3_tiny_srb", "scale_covariant_net_spiking"),
]


def pytest_generate_tests(metafunc):
    """A test that takes ``any_name`` runs for every name, and one that takes ``small_name`` for one of each family."""
    for argument, names in (("any_name", NAMES), ("small_name", SMALL)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names)


@pytest.fixture(scope="session")
def timm_source():
    return _timm_source


def _timm_source(wanted: str) -> Path:
    """A folder with timm's source of the installed version that has the file ``wanted``; else the test is skipped.

    ``STERF_TIMM_SOURCE`` names it, or it is called ``timm-VERSION`` and lies in ``.timm``, where ``make timm-source``
    puts the source distribution (tests), or beside the repository. A checkout of timm's repository has the scripts too.
    """
    name = f"timm-{timm.__version__}"
    folders = [Path(os.environ.get("STERF_TIMM_SOURCE", ROOT / ".timm" / name)), ROOT.parent / name]
    for folder in folders:
        version = folder / "timm" / "version.py"
        if (folder / wanted).is_file() and version.is_file():
            found = re.search(r"['\"](.+)['\"]", version.read_text())
            if found and found[1] == timm.__version__:
                return folder
    pytest.skip(
        f"{wanted} of timm {timm.__version__} is not at hand; set STERF_TIMM_SOURCE (make timm-source for tests)"
    )
