"""A package of one's own, with a mixer and a stem: a copy of the shipped template with the names filled in."""

import importlib.metadata
import importlib.util
import keyword
import re
from pathlib import Path

from .. import plugins
from ..files import is_taken

TEMPLATE = Path(__file__).resolve().parents[1] / ".mim" / "examples" / "plugin_template"


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Write a package.

    Args:
        name: name of the distribution, such as "my-mixers"; the package has underscores in place of hyphens.
        folder: the folder that gets it; it must not exist, or be empty.

    Returns:
        The files that were written.

    Raises:
        ValueError: the name cannot be that of a package, or a plugin or another installed package has it already.
        FileExistsError: the folder holds files.
    """
    package = name.lower().replace("-", "_")
    if not package.isidentifier() or keyword.iskeyword(package) or not package.isascii():
        raise ValueError(f"NAME is {name!r}; it must be letters, digits and hyphens, beginning with a letter.")
    taken = {f"{package}_{kind}" for kind in ("mixer", "stem") if f"{package}_{kind}" in plugins.discover(f"{kind}s")}
    if taken or package == plugins.__package__:
        raise ValueError(f"NAME is {name!r}, which is taken ({', '.join(sorted(taken)) or package}); take another one.")
    if _is_installed(package, name):
        raise ValueError(
            f"NAME is {name!r}, which is an installed package; pip would put yours in its place. Take another one."
        )
    if is_taken(folder):
        raise FileExistsError(f"{folder} holds files, which are left alone; give another --folder.")
    words = dict(
        my_plugin=package,
        my_mixer=f"{package}_mixer",
        my_stem=f"{package}_stem",
        MyMixer=f"{_camel(package)}Mixer",
        MyStem=f"{_camel(package)}Stem",
    )
    words["my-plugin"] = package.replace("_", "-")
    pattern = re.compile("|".join(words))
    written = []
    for source in sorted(p for p in TEMPLATE.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        target = folder / pattern.sub(lambda m: words[m[0]], source.relative_to(TEMPLATE).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(pattern.sub(lambda m: words[m[0]], source.read_text()))
        written.append(target)
    return written


def _camel(package: str) -> str:
    return "".join(word.capitalize() for word in package.split("_"))


def _is_installed(package: str, distribution: str) -> bool:
    """Whether Python can import a package of this name from a file, or pip knows a distribution of this name."""
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        return True
    try:
        return bool(importlib.metadata.distribution(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False
