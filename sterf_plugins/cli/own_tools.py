"""The tools of this package by name: ``sterf train`` runs ``tools/train.py``, from the repository or from the wheel."""

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".mim" / "tools"
_FOR_THE_REPOSITORY = ("demo", "demo_report", "demo_tracking", "demo_tracking_report", "make_environment")


def own_tools() -> dict[str, Path]:
    """Command -> file of each tool; the command is the file's name with hyphens."""
    files = sorted(FOLDER.rglob("*.py"), key=lambda path: (len(path.parts), path.name))
    return {path.stem.replace("_", "-"): path for path in files if path.stem not in _FOR_THE_REPOSITORY}


def tool_name() -> str:
    """What the running program is called in messages: the command ``sterf NAME``, or the name of a file that was run."""
    path = Path(sys.argv[0])
    return f"sterf {path.stem.replace('_', '-')}" if FOLDER in path.parents else path.name


def summary(path: Path) -> str:
    """The first sentence of a tool's docstring, which is read without running the file."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def run_own_tool(name: str, arguments: Sequence[str]) -> None:
    """Run a tool in this process as ``python FILE ARGUMENTS`` would."""
    path = own_tools()[name]
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
