"""The architecture, checked: imports point downwards only and in no circle, and light imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS

PACKAGE = Path(__file__).resolve().parents[1] / "sterf_plugins"

# Lower layers first; a module may import from its own part and from lower layers. Every file and folder has its place.
LAYERS = [
    {"checks"},
    {"files", "mmcv_ops", "module_state", "plugins"},
    {"undisturbed"},
    {"firing"},
    {"functional"},
    {"layers"},
    {"activity", "events", "mixers", "stems"},
    {"backbones", "erf"},
    {"deploy"},
    {"checkpoints"},
    {"testing", "timm"},
    {"import_hooks", "registry"},
    {"tracking"},
    {"openmmlab"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
# The parts of `erf/`, likewise.
ERF_LAYERS = [
    {"archive", "inputs", "numbers"},
    {"outputs", "protocols"},
    {"calibrate", "summary"},
    {"doubts", "figures", "passes"},
    {"result"},
    {"compare", "compute"},
    {"field_checks", "frequency", "rules", "sweep", "theory"},
    {"report"},
    {"__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ERF_RANK = {f"erf/{name}": rank for rank, names in enumerate(ERF_LAYERS) for name in names}
# The one import that points upwards: `backbones.convert_state_dict` is looked up when somebody asks for it.
UPWARDS = {("backbones/__init__.py", "checkpoints/__init__.py")}
OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg"}
MAY_IMPORT_OPENMMLAB = ("openmmlab/", "cli/", "import_hooks.py", "mmcv_ops/", "tracking/openmmlab.py",
                        "tracking/sd_track_openmmlab.py",
                        "tracking/picture_hook.py", "registry.py",
                        "checkpoints/detectors.py", "checkpoints/reading.py", "__main__.py")  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if ".mim" not in p.parts)


def part_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def part_of_erf(name: str) -> str:
    return "/".join(name.split("/")[:2]).removesuffix(".py")


def file_of(dotted: list[str]) -> Path | None:
    """The file of a module of this package, or ``None`` if there is none of that name."""
    base = PACKAGE.joinpath(*dotted)
    return next((p for p in (base.with_suffix(".py") if dotted else base, base / "__init__.py") if p.is_file()), None)


def imports(path: Path):
    """(top-level package or None, file of this package or None) of each import in a file, wherever it stands."""
    folder = list(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], None
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], None
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            for alias in node.names:
                yield None, file_of([*start, alias.name]) or file_of(start)


def edges() -> dict[str, set[str]]:
    """File -> the files of this package that it imports."""
    return {name_of(p): {name_of(f) for _, f in imports(p) if f is not None} for p in modules()}


def test_every_part_has_its_place():
    parts = {part_of(name_of(p)) for p in modules()}
    assert parts == set(RANK)
    assert {part_of_erf(name_of(p)) for p in modules() if part_of(name_of(p)) == "erf"} == set(ERF_RANK)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downwards(path):
    name, part = name_of(path), part_of(name_of(path))
    for outside, inside in imports(path):
        assert outside != "sterf_plugins" or part in ("cli", "__main__"), f"{name}: import by a relative name"
        assert outside not in OPENMMLAB or name.startswith(MAY_IMPORT_OPENMMLAB), f"{name} must not import {outside}"
        if part == "erf":
            assert outside not in ("timm", "spikingjelly", "torchvision"), f"{name} must not import {outside}"
        if inside is None or (name, name_of(inside)) in UPWARDS:
            continue
        other = part_of(name_of(inside))
        assert RANK[other] < RANK[part] or other == part, f"{name} imports {name_of(inside)}, which is not below it"
        assert part != "erf" or other in ("erf", "checks", "files", "firing", "undisturbed"), (
            f"{name} must stand on torch, numpy and scipy alone"
        )
        if part == other == "erf":
            here, there = part_of_erf(name), part_of_erf(name_of(inside))
            assert ERF_RANK[there] < ERF_RANK[here] or there == here, (
                f"{name} imports {name_of(inside)}, which is not below it"
            )


@pytest.mark.slow
def test_there_are_no_circles():
    graph = edges()
    graph = {name: {f for f in found if (name, f) not in UPWARDS} for name, found in graph.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"imports in a circle: {' -> '.join(path[path.index(name) :])} -> {name}"
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(modules())


def loaded_by(*modules: str, then: str = "") -> tuple[dict[str, set[str]], str]:
    """The packages that are loaded after each of the modules, which one new process imports in turn.

    And what it prints when it runs the code that comes ``then``.
    """
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += f"    print(name, *{{m.split('.')[0] for m in sys.modules}})\nprint('then')\n{then}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded, _, printed = result.stdout.partition("then\n")
    return {name: set(packages) for name, *packages in map(str.split, loaded.splitlines())}, printed


def test_importing_the_package_loads_no_torch():
    assert not loaded_by("sterf_plugins")[0]["sterf_plugins"] & (OPENMMLAB | {"torch", "timm", "numpy"})


# What runs without OpenMMLab, as after `pip install sterf-plugins` without extras.
WITHOUT_OPENMMLAB = """
sys.modules.update(dict.fromkeys(("mmengine", "mmcv", "mmdet", "mmseg")))  # None: cannot be imported
import timm, torch
from sterf_plugins.erf import compute_erf
model = timm.create_model("sdtv3_nano_srb", num_classes=0)
print(compute_erf(model, torch.randn(2, 3, 32, 32), layers="stages.1").layers)
import sterf_plugins
try:
    sterf_plugins.setup()
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_timm_side_and_the_erf_engine_load_no_openmmlab_and_the_engine_neither_timm_nor_spikingjelly():
    """They work without it, and the message of what does not work names the extra."""
    others = [f"sterf_plugins.{name}" for name in ("plugins", "mixers", "backbones", "testing", "timm")]
    loaded, printed = loaded_by("sterf_plugins.erf", *others, then=WITHOUT_OPENMMLAB)
    assert not loaded["sterf_plugins.erf"] & {"timm", "spikingjelly", "matplotlib"}
    assert len(loaded) == 6 and not [name for name, packages in loaded.items() if packages & OPENMMLAB]
    assert "['stages.1']" in printed and 'pip install "sterf-plugins[openmmlab]"' in printed


@pytest.mark.parametrize(("name", "old", "new", "tests"), MUTATIONS)
def test_mutations_are_of_lines_and_tests_that_are_there(name, old, new, tests):
    assert (PACKAGE / name).read_text().count(old) == 1 and old != new
    assert all((PACKAGE.parent / path).exists() for path in tests.split())
