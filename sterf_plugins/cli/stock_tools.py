"""The tools that mmdet and mmseg are installed with, by name: analysis, data sets, conversion, training."""

import difflib
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import sterf_plugins

from ..checkpoints.reading import harmless_globals
from .specs import CONFIG_PREFIXES, is_config

LIBRARIES = ("mmdet", "mmseg")


def stock_tools(library: str) -> dict[str, Path]:
    """Name -> file of each of an installed library's tools; none if it is not installed.

    The name is the file's, without its suffix; the second file of a name keeps its folder, as "misc/browse_dataset".
    """
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / ".mim" / "tools"
    tools: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder).with_suffix("").as_posix()
        tools[inner if path.stem in tools else path.stem] = path
    return tools


def find_tool(name: str, library: str | None, arguments: Sequence[str]) -> Path:
    """The file of a tool.

    Args:
        name: its name in ``stock_tools``.
        library: "mmdet" or "mmseg"; ``None`` for a name that only one of them has, or for that of the config's scope.
        arguments: what the tool is called with; the first that is a config tells the scope.

    Raises:
        ValueError: there is no such tool, or both libraries have one and no config tells which is meant.
    """
    known = {lib: stock_tools(lib) for lib in ([library] if library else LIBRARIES)}
    found = {lib: tools[name] for lib, tools in known.items() if name in tools}
    if not found:
        near = difflib.get_close_matches(name, sorted({n for tools in known.values() for n in tools}), 3)
        raise ValueError(
            f"{' and '.join(known)} have no tool {name!r}; near: {', '.join(near) or 'none'}. `sterf run` lists all."
        )
    if len(found) == 1:
        return next(iter(found.values()))
    from ..openmmlab.configs.reading import load_config

    config = next((a for a in arguments if is_config(a)), None)
    scope = load_config(config).get("default_scope") if config else None
    if scope not in found:
        raise ValueError(f"{' and '.join(found)} both have a tool {name!r}; add --library mmdet or --library mmseg.")
    return found[scope]


def run_stock_tool(name: str, library: str | None, arguments: Sequence[str]) -> None:
    """Run a tool in this process as ``python FILE ARGUMENTS`` would, with our configs and types known.

    An argument such as ``mmdet::…`` becomes the path of that config. The tools call ``torch.load``, which refuses mmengine's
    checkpoints for the log that they hold; here it takes what ``read_checkpoint`` takes.

    Raises:
        ValueError: there is no such tool or config.
        ImportError: the tool needs a package that is not installed.
    """
    sterf_plugins.setup()
    from ..openmmlab.configs.reading import config_path

    path = find_tool(name, library, arguments)
    sys.argv = [str(path), *(str(config_path(a)) if a.startswith(CONFIG_PREFIXES) else a for a in arguments)]
    sys.path.insert(0, str(path.parent))
    sys.path.append(str(next(p for p in path.parents if p.name == ".mim")))  # one imports `tools.…`, another tool
    try:
        with torch.serialization.safe_globals(harmless_globals()):
            runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        raise ImportError(f"{path} needs the package {error.name}, which is not installed: pip install it.") from error
