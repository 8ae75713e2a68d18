"""Reading configs by path or by ``package::path``."""

import difflib
import importlib.util
import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from .types import dicts_in, type_name, use_registered_names

PACKAGES = ("mmdet", "mmseg", "sterf_plugins")
SUFFIXES = (".py", ".json", ".yaml", ".yml")  # those of configs, which mmengine reads
# What a runner reads of a config. `data_preprocessor` is a variable of mmdet's and mmseg's config files besides.
SETTINGS = set(inspect.signature(Runner.__init__).parameters) - {"self", "data_preprocessor"}


def config_path(name: str) -> Path:
    """The file of a config given as a path or as ``mmdet::…``, ``mmseg::…`` or ``sterf_plugins::…``.

    Raises:
        ValueError: the package is unknown or not installed, or it has no such config (the message lists similar names), or
            a file is none.
    """
    if "::" not in name:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"no config file {name!r}. Give a path, or mmdet::…, mmseg::…, sterf_plugins::….")
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{name} is no config, whose name ends in {', '.join(SUFFIXES)}. A checkpoint stands behind the config."
            )
        return path
    package, inner = name.split("::", 1)
    root = config_root(package)
    path = root / inner
    if not path.is_file():
        known = [p.relative_to(root).as_posix() for p in root.rglob("*.py")]
        near = difflib.get_close_matches(inner, known, 3, 0.3)
        raise ValueError(f"{package} has no config {inner!r}; near: {', '.join(near) or 'none'}.")
    return path


def config_root(package: str) -> Path:
    """The folder of the configs that a package brings along.

    Raises:
        ValueError: the package is unknown or not installed.
    """
    if package not in PACKAGES:
        raise ValueError(f"config package {package!r} is unknown; allowed: {', '.join(PACKAGES)}.")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f'configs of {package} need that package: pip install "sterf-plugins[openmmlab]"')
    return Path(spec.origin).parent / ".mim" / "configs"


def _cause(error: BaseException) -> str:
    """An error by type and text; of a failed import, the first of its chain, which names the module that is not there."""
    while isinstance(error, ImportError) and (before := error.__cause__ or error.__context__) is not None:
        error = before
    hint = "; install its package, which the config imports" if isinstance(error, ModuleNotFoundError) else ""
    return f"{type(error).__name__}: {error}{hint}"


def load_config(name: str, options: dict | None = None) -> Config:
    """Read a config of either style and merge options into it; types that are classes become registered names.

    Args:
        name: path or ``package::path``, see ``config_path``.
        options: values by dotted key, as ``--cfg-options`` gives them.

    Raises:
        ValueError: there is no such config, or it cannot be read.
    """
    try:
        config = Config.fromfile(config_path(name))
        use_registered_names(config)
    except (SyntaxError, NameError, KeyError, ImportError, RuntimeError) as error:  # RuntimeError: mixed styles
        raise ValueError(f"config {name!r} cannot be read: {_cause(error)}") from error
    merge_options(config, options or {})
    return config


def check_names(config: Config) -> None:
    """Raise ``ValueError`` if a name is nearly that of a setting: a training would not read it, without a word."""
    for name in set(config) - SETTINGS:
        near = difflib.get_close_matches(name, sorted(SETTINGS), 1, 0.88)
        if near and name != f"{near[0]}s":  # a plural, as `models` of a study, is a word of its own
            raise ValueError(
                f"{name} is no setting, and would change nothing; {near[0]} is meant, it seems. Rename it."
            )


def merge_options(config: Config, options: dict[str, Any]) -> None:
    """Merge options into a config, in place; a ``None`` of the config gives way to a dict.

    Args:
        config: the config.
        options: values by dotted key, as ``--cfg-options`` gives them.

    Raises:
        ValueError: an option is part of another one that is no dict, or sets a variable of the config file from which
            other settings were already made; or a module of ``custom_imports`` cannot be imported.
    """
    # Dicts first: after `a.b.c=1`, `a.b=dict(d=2)` would replace what it ought to be merged with.
    dicts = {key: value for key, value in options.items() if isinstance(value, dict)}
    options = {**{key: dicts[key] for key in sorted(dicts, key=len)}, **options}
    _check_parts(options)
    before = {key: config.get(key) for key in options}
    for key, value in options.items():
        _make_room(config, key.split("."), isinstance(value, dict))
    config.merge_from_dict({key: value for key, value in options.items() if not _set_element(config, key, value)})
    for key, value in options.items():
        if key.split(".")[0] not in SETTINGS:
            _check_takes_effect(config, key, before[key], value)
    if any(key.split(".")[0] == "custom_imports" for key in options):
        _import_modules(config.custom_imports)


def _import_modules(wanted: dict | None) -> None:
    """Import what ``custom_imports`` names, which mmengine does only where a config's file says it.

    Raises:
        ValueError: a module cannot be imported.
    """
    try:
        if wanted:
            import_modules_from_strings(**wanted)
    except (ImportError, TypeError) as error:
        raise ValueError(f"--cfg-options custom_imports={wanted}: {_cause(error)}") from error


def _index(node: Any, name: str) -> int | str:
    """By what a part of a dotted key is looked up: a number in lists and tuples, a name elsewhere."""
    return int(name) if isinstance(node, (list, tuple)) and name.isdigit() else name


def _set_element(config: Any, key: str, value: Any) -> bool:
    """Set an element of a list to a value that is no dict, which mmengine cannot merge; whether the key names one.

    Raises:
        ValueError: the list has no such element, or is a tuple, whose elements cannot be set.
    """
    *names, last = key.split(".")
    if isinstance(value, dict) or not last.isdigit():
        return False
    node = config
    try:
        for name in names:
            node = node[_index(node, name)]
    except (KeyError, IndexError, TypeError):  # mmengine says what is missing
        return False
    if not isinstance(node, (list, tuple)):
        return False
    parent = ".".join(names)
    if isinstance(node, tuple):
        raise ValueError(
            f'--cfg-options {key}={value}: {parent} is the tuple {node}; set it as a whole: {parent}="(…)".'
        )
    if int(last) >= len(node):
        raise ValueError(f"--cfg-options {key}={value}: {parent} has {len(node)} elements, from 0 to {len(node) - 1}.")
    node[int(last)] = value
    return True


def _check_parts(options: dict[str, Any]) -> None:
    """Raise ``ValueError`` for an option that is part of an earlier one which has no parts, such as ``None``."""
    without_parts: list[str] = []
    for key, value in options.items():
        other = next((name for name in without_parts if key.startswith(f"{name}.")), None)
        if other:
            raise ValueError(
                f"--cfg-options {other}={options[other]} and {key}={value} contradict each other; leave one out."
            )
        if not isinstance(value, dict):
            without_parts.append(key)


def _make_room(node: Any, names: list[str], whole: bool) -> None:
    """Turn a ``None`` on the way to a setting, and the setting itself if a ``whole`` dict is to come, into a dict."""
    for name in names if whole else names[:-1]:
        index = _index(node, name)
        try:
            if node[index] is None:
                node[index] = ConfigDict()
            node = node[index]
        except (KeyError, IndexError, TypeError):  # what is not there yet, or cannot be merged, is mmengine's to say
            return


def _check_takes_effect(config: Config, key: str, before: Any, value: Any) -> None:
    """Raise ``ValueError`` if an option sets a variable of a config file, and settings made from it keep another value.

    Such settings are those of the variable's name; where there are none, those that still hold what it was ``before``.
    """
    used = {name: old for name, old in _leaves(config.to_dict(), "") if name.split(".")[0] in SETTINGS}
    reason = (
        f"--cfg-options {key}={value} changes nothing, since the training does not read it: it is a variable of the "
        f"config file, and what has been made from it keeps its value."
    )
    named = [name for name in used if name.endswith(f".{key}")]
    stale = [name for name in named if _plain(used[name]) != _plain(value)]
    if stale:
        options = " ".join(shlex.quote(f"{name}={value}") for name in stale)
        raise ValueError(f"{reason} Set that: --cfg-options {options}")
    if named:
        return
    if isinstance(before, (int, float, str, list, tuple)) and not isinstance(before, bool) and before != value:
        unchanged = [name for name, old in used.items() if type(old) is type(before) and old == before]
        if unchanged:
            raise ValueError(
                f"{reason} Set those of its settings that you mean; {before} is now {', '.join(unchanged)}."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each setting of a config, as (its key, its value); lists without dicts in them are settings."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict) or (isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value)):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def revert_sync_bn(config: Config) -> int:
    """Replace every ``SyncBN`` by ``BN`` in the model's config; returns how many there were."""
    norms = [part for part in dicts_in(config.model) if type_name(part) in ("SyncBN", "MMSyncBN", "SyncBatchNorm")]
    for norm in norms:
        norm["type"] = "BN"
    return len(norms)


def without_weight_files(config: Any) -> None:
    """Take out of a model's config, wherever they stand, the files that weights would be read from."""
    for part in dicts_in(config):
        inits = part.get("init_cfg")
        if isinstance(inits, (list, tuple)):
            part["init_cfg"] = [init for init in inits if "checkpoint" not in init]
        elif isinstance(inits, dict) and "checkpoint" in inits:
            part["init_cfg"] = None
        if isinstance(part.get("pretrained"), str):
            part["pretrained"] = None
