"""The stand-in has every compiled op of mmcv that a config of mmdet or mmseg needs, and the docs name it."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from sterf_plugins import mmcv_ops

pytest.importorskip("sterf_plugins.openmmlab")

import mmcv.ops
from mmcv_cases import COMPILED


def stock_configs():
    """Path of each config that mmdet and mmseg bring along, with their packages' folders."""
    for package in ("mmdet", "mmseg"):
        root = Path(importlib.util.find_spec(package).origin).parent
        yield from ((path, root) for path in sorted((root / ".mim" / "configs").rglob("*.py")))


def ops_of_stock_configs() -> dict:
    """What the code of mmdet and mmseg imports from ``mmcv.ops``, and what a config of theirs gives as a type, by name."""
    from mmengine.registry import MODELS

    ops = {}
    for root in {root for _, root in stock_configs()}:
        for path in (path for path in root.rglob("*.py") if ".mim" not in path.parts):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmcv.ops"):
                    module = importlib.import_module(node.module)
                    ops |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for path, _ in stock_configs():
        for name in re.findall(r"type\s*=\s*['\"](\w+)['\"]", path.read_text()):
            op = MODELS.module_dict.get(name, getattr(mmcv.ops, name, None))
            if getattr(op, "__module__", "").startswith("mmcv.ops"):
                ops[name] = op
    return ops


def kernels_of(name: str, op) -> set[str]:
    """The compiled functions that an op calls."""
    module = getattr(op, "__self__", op).__module__  # of an autograd function, where the op is its `apply`
    if module == "mmcv.ops.nms":  # a file of several ops
        return {dict(nms="nms", batched_nms="nms", soft_nms="softnms", nms_match="nms_match")[name]}
    return set(re.findall(r"ext_module\.(\w+)", Path(sys.modules[module].__file__).read_text()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in mmdet's docstrings
@pytest.mark.skipif(COMPILED, reason="mmcv is compiled here")
def test_every_op_of_a_stock_config_is_there_and_in_the_docs():
    """The list is read from the installed packages, so that a new version's need is seen."""
    provided = {op.__name__ for op in mmcv_ops.PROVIDED}
    needed = {name: kernels for name, op in ops_of_stock_configs().items() if (kernels := kernels_of(name, op))}
    assert {"DCNv2", "MaskedConv2d", "PSAMask", "carafe", "nms_match", "MMSyncBN"} <= needed.keys()
    assert not {name: kernels - provided for name, kernels in needed.items() if kernels - provided}

    page = (Path(__file__).parents[2] / "docs" / "openmmlab.md").read_text()
    cells = [[set(re.findall(r"`(\w+)`", cell)) for cell in line.split("|")] for line in page.splitlines()]
    rows = [(row[1], row[3]) for row in cells if len(row) == 5 and row[1] & needed.keys()]
    documented = {op: set().union(*(folders for ops, folders in rows if op in ops)) for op in needed}
    assert all(any(op in ops for ops, _ in rows) for op in needed), needed.keys() - set().union(
        *(ops for ops, _ in rows)
    )
    uses: dict[str, set] = {}
    folders = set()
    for path, root in stock_configs():
        folder = path.relative_to(root / ".mim" / "configs").parts[0]
        folders.add(folder)
        for name in re.findall(r"type\s*=\s*['\"](\w+)['\"]", path.read_text()):
            uses.setdefault(name, set()).add(folder)
    assert set().union(*documented.values()) <= folders
    for op in needed.keys() & uses.keys() - {"nms", "RoIAlign", "MultiScaleDeformableAttention"}:  # in very many
        assert uses[op] - {"_base_"} <= documented[op], op
