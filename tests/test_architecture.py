"""The architecture, checked: imports point downwards only, and light imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sterf_plugins"

# Lower layers first; a module may import from its own layer and from lower ones.
LAYERS = [
    {"checkpoints", "checks", "compat", "console", "plugins"},
    {"functional"},
    {"batch_norm", "neurons"},
    {"activity", "blocks", "events", "mixers", "stems"},
    {"backbones"},
    {"testing", "timm"},
    {"registry"},
    {"openmmlab", "hooks"},
    {"loading"},
    {"images"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg"}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if ".mim" not in p.parts and p.name != "__main__.py")


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    return relative.parts[0] if len(relative.parts) > 1 or relative.name != "__init__" else ""


def imported(path: Path):
    """(top-level package or None, part of this package or None) of each import in a file."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], None
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module.split(".")[0], None
            elif node.level == depth:  # relative to the package root
                for name in [node.module.split(".")[0]] if node.module else [a.name for a in node.names]:
                    yield None, name


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    part = part_of(path)
    for outside, inside in imported(path):
        if part not in ("openmmlab", "hooks", "registry", "compat", "loading", "images", "checkpoints"):
            assert outside not in OPENMMLAB, f"{part} must not import {outside}"
        if part == "erf":
            assert outside not in ("timm", "spikingjelly", "torchvision", "scipy")
            assert inside in (None, "checks"), f"erf must stand on torch and numpy alone, not on {inside}"
        if inside and part in RANK and inside in RANK:
            assert RANK[inside] <= RANK[part], f"{part} imports {inside}, which is above it"


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def test_importing_the_package_loads_no_torch():
    assert not loaded_by("import sterf_plugins") & (OPENMMLAB | {"torch", "timm", "numpy"})


@pytest.mark.parametrize("module", ["timm", "erf", "backbones", "mixers", "testing", "plugins"])
def test_the_timm_side_and_the_erf_engine_load_no_openmmlab(module):
    assert not loaded_by(f"import sterf_plugins.{module}") & OPENMMLAB


def test_the_erf_engine_loads_neither_timm_nor_spikingjelly():
    assert not loaded_by("import sterf_plugins.erf") & {"timm", "spikingjelly", "matplotlib"}


def test_without_openmmlab_the_message_names_the_extra():
    """As after `pip install sterf-plugins` without extras: OpenMMLab packages cannot be found."""
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mmengine", "mmcv", "mmdet", "mmseg"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] in {"mmengine", "mmcv"} else real(name, *a)
import timm, sterf_plugins.timm, torch
from sterf_plugins.erf import compute_erf
model = timm.create_model("sdtv3_nano_srb", num_classes=0)
print(compute_erf(model, torch.randn(2, 3, 32, 32), layers="stages.1").layers)
import sterf_plugins
try:
    sterf_plugins.setup()
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "['stages.1']" in result.stdout, result.stderr
    assert 'pip install "sterf-plugins[openmmlab]"' in result.stdout
