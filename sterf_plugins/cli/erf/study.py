"""Studies of ``tools/erf.py``: Python files that name the models to compare, and values of the tool's options."""

import argparse
import ast
import os
import runpy
from pathlib import Path
from typing import Any, NoReturn

import sterf_plugins

OURS = "sterf_plugins::"  # what stands before the names of shipped configs
CONFIGS = Path(sterf_plugins.__file__).parent / ".mim" / "configs"
# What the command line says beside a study, or the study says by its models.
_NO_ENTRIES = ("model", "checkpoint", "of", "compare", "out")

ModelFile = list[str | None]  # a specification, with a label, and a checkpoint


def read_study(name: str) -> tuple[list[ModelFile], dict[str, Any]] | None:
    """The models and the other entries of the ``study`` in a Python file; ``None`` if the file has none.

    Args:
        name: path of the file; or ``sterf_plugins::`` and the path of one that this package brings along.

    Raises:
        ValueError: the file cannot be read, or its ``study`` names no models.
    """
    path = CONFIGS / name.removeprefix(OURS) if name.startswith(OURS) else Path(name)
    if path.suffix != ".py" or not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    targets: list[ast.expr] = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in tree.body if isinstance(n, ast.AnnAssign)]
    if "study" not in [t.id for t in targets if isinstance(t, ast.Name)]:
        return None
    study = runpy.run_path(str(path))["study"]
    if not isinstance(study, dict):
        raise ValueError(f"{name}: `study` is a {type(study).__name__}; give dict(models=[...], OPTION=VALUE, ...).")
    entries = dict(study)
    models = entries.pop("models", None)
    if not isinstance(models, (list, tuple)) or not models:
        raise ValueError(f"{name}: `study` needs models=[...], each a name, or a name and a checkpoint.")
    return [_model(name, model) for model in models], entries


def _model(name: str, model: Any) -> ModelFile:
    """One of a study's models; the file's ``name`` is for the message."""
    spec, checkpoint, *more = [model, None] if isinstance(model, str) else [*_sequence(model), None, None]
    if not isinstance(spec, str) or not isinstance(checkpoint, (str, os.PathLike, type(None))) or any(more):
        raise ValueError(f"{name}: `study` has the model {model!r}; give a name, or a name and a checkpoint.")
    return [spec, None if checkpoint is None else os.fspath(checkpoint)]


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_entries(
    name: str, entries: dict[str, Any], parser: argparse.ArgumentParser, known: set[str]
) -> dict[str, Any]:
    """The values of a study's entries as if they stood on the command line, by the name of the option.

    Args:
        name: the study's file, for messages.
        entries: option, with underscores -> value: ``True`` for an option without a value, a list for one with several;
            ``None`` and ``False`` leave an option out.
        parser: a new parser of the command line; it cannot be used again.
        known: names of all options.

    Raises:
        ValueError: there is no such option, or it does not take the value.
    """
    unknown = sorted(set(entries) - (known - {*_NO_ENTRIES}))
    if unknown:
        raise ValueError(f"{name}: `study` has unknown keys {', '.join(unknown)}; allowed: options of this tool.")
    options = {key: value for key, value in entries.items() if value is not None and value is not False}
    words = [name, "no checkpoint", "--out", os.curdir]  # or Python 3.13 takes a value too many for the checkpoint
    for key, value in options.items():
        words += _words(f"--{key.replace('_', '-')}", value)

    def refuse(message: str) -> NoReturn:
        raise ValueError(
            f"{name}: `study`: {message}; give options what they take on the command line (sterf erf --help)."
        )

    parser.error = refuse  # type: ignore[method-assign]
    values = vars(parser.parse_args(words))
    return {key: values[key] for key in options}


def _words(option: str, value: Any) -> list[str]:
    """An option and its value as words of a command line."""
    if value is True:
        return [option]
    if isinstance(value, (list, tuple)):
        return [option, *map(str, value)]
    return [f"{option}={value}"]  # in one word, since a value may begin with a minus
