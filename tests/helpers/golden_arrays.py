"""Golden arrays: what the published code computes, in the repository and in the full set."""

import json
import lzma
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def golden_folder() -> Path:
    """Folder of the golden arrays: all of them where they are (``STERF_GOLDEN``), else those in ``tests/golden``."""
    full = Path(os.environ.get("STERF_GOLDEN", ROOT.parent / "shared" / "golden"))
    return full if full.is_dir() else ROOT / "tests" / "golden"


class Golden:
    """The cases of one golden folder; ``cases`` maps their ids to their descriptions."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cases = {c["id"]: c for c in json.loads((folder / "manifest.json").read_text())["cases"]}

    def file(self, name: str) -> Path:
        """Path of a file of the folder; the test is skipped where only the full set has it."""
        path = self.folder / name
        if not path.is_file():
            pytest.skip(f"{name} is in the full set of golden arrays only; set STERF_GOLDEN to its folder")
        return path

    def tensors(self, name: str) -> dict:
        from safetensors.torch import load, load_file

        packed = self.folder / f"{name}.xz"
        return load(lzma.decompress(packed.read_bytes())) if packed.is_file() else load_file(str(self.file(name)))

    def case(self, name: str) -> tuple[dict, dict, dict]:
        """The case's description, its arrays, and its published state dict."""
        if name not in self.cases:
            pytest.skip(f"case {name} is in the full set of golden arrays only; set STERF_GOLDEN to its folder")
        case = self.cases[name]
        arrays = self.tensors(case["file"])
        state = {k.removeprefix("param."): v for k, v in arrays.items() if k.startswith("param.")}
        return case, arrays, state
