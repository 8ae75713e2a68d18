"""Write ``docs/api.md``: every public name of every public package, its signature and the first sentence about it.

The page is what the tests compare the package with (``tests/test_public_names.py``), so that no public name comes or
goes unnoticed. Run ``python docs/make_api.py`` after a change that is meant.
"""

import importlib
import inspect
import pkgutil
import re
from inspect import isfunction
from pathlib import Path

import sterf_plugins

PAGE = Path(__file__).parent / "api.md"
INTERNAL = re.compile(r"sterf_plugins\.(cli|mmcv_ops|openmmlab\.runtime|erf\..*)(\.|$)")
MODULES = ("sterf_plugins.plugins", "sterf_plugins.registry", "sterf_plugins.testing")  # public without being packages
HEAD = """# Public names

These names are the API: what a package lists in `__all__`. Everything else, all modules below the packages and the
packages `cli`, `mmcv_ops`, `openmmlab.runtime` and those below `erf` included, is internal and may change without
notice. Written by `python docs/make_api.py`.
"""


def packages() -> list[str]:
    """The importable names of all public packages and modules, the root first."""
    found = pkgutil.walk_packages(sterf_plugins.__path__, "sterf_plugins.")
    return ["sterf_plugins", *sorted([m.name for m in found if m.ispkg and not INTERNAL.match(m.name)] + [*MODULES])]


def entry(module: object, name: str) -> str:
    """One line of the page: the name, for a function its arguments, and the first sentence of its documentation."""
    value = getattr(module, name)
    if inspect.ismodule(value):
        return f"- `{name}`: the package below"
    if not callable(value):
        return f"- `{name}`: {type(value).__name__}"
    arguments = ", ".join(written(p) for p in inspect.signature(value).parameters.values()) if isfunction(value) else ""
    text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").strip()
    return f"- `{name}({arguments})`: {text}" if isfunction(value) else f"- `{name}`: {text}"


def written(parameter: inspect.Parameter) -> str:
    """A parameter's name, with the stars that it has in a signature."""
    return str(parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty))


def page() -> str:
    """The text of the whole page."""
    parts = [HEAD]
    for path in packages():
        module = importlib.import_module(path)
        lines = [entry(module, name) for name in sorted(module.__all__, key=str.lower) if name != "__version__"]
        parts.append(f"## {path}\n\n{inspect.getdoc(module).splitlines()[0]}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
