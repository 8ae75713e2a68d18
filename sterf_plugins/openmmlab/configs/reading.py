"""Reading configs by path or by ``package::path``."""

import importlib.util
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

PACKAGES = ("mmdet", "mmseg", "sterf_plugins")


def config_path(name: str) -> Path:
    """The file of a config given as a path or as ``mmdet::…``, ``mmseg::…`` or ``sterf_plugins::…``.

    Raises:
        ValueError: the package is unknown or not installed, or it has no such config; the message lists similar names.
    """
    if "::" not in name:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"no config file {name!r}. Give a path, or mmdet::…, mmseg::…, sterf_plugins::….")
        return path
    package, inner = name.split("::", 1)
    root = config_root(package)
    path = root / inner
    if not path.is_file():
        import difflib

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


def load_config(name: str, options: dict | None = None) -> Config:
    """Read a config and merge options into it.

    Args:
        name: path or ``package::path``, see ``config_path``.
        options: values by dotted key, as ``--cfg-options`` gives them.

    Raises:
        ValueError: there is no such config, or it cannot be read.
    """
    try:
        config = Config.fromfile(config_path(name))
    except (SyntaxError, NameError, KeyError, ConfigParsingError) as error:
        raise ValueError(f"config {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if options:
        config.merge_from_dict(options)
    return config


def revert_sync_bn(config: Config) -> int:
    """Replace every ``SyncBN`` by ``BN`` in the model's config; returns how many there were."""
    replaced = 0

    def walk(node):
        nonlocal replaced
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "type" and value in ("SyncBN", "MMSyncBN", "SyncBatchNorm"):
                    node[key] = "BN"
                    replaced += 1
                else:
                    walk(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                walk(value)

    walk(config.model)
    return replaced


def without_weight_files(config: Any) -> None:
    """Take out of a model's config, wherever they stand, the files that weights would be read from."""
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, (dict, list, tuple)):
            without_weight_files(value)
    if not isinstance(config, dict):
        return
    inits = config.get("init_cfg")
    if isinstance(inits, (list, tuple)):
        config["init_cfg"] = [init for init in inits if "checkpoint" not in init]
    elif isinstance(inits, dict) and "checkpoint" in inits:
        config["init_cfg"] = None
    if isinstance(config.get("pretrained"), str):
        config["pretrained"] = None
