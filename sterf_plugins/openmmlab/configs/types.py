"""Types in configs, whichever of mmengine's two styles the config is written in.

In the older style a type is a name, ``type="FPN"``; in the Python-import style it is the class itself, which mmengine
writes down as ``"mmdet.models.necks.fpn.FPN"`` in the config of a finished training.
"""

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry


def type_name(config: Any) -> str:
    """Bare class name of what a config builds: "FPN" for ``"FPN"``, ``"mmdet.FPN"`` and the class ``FPN``.

    Args:
        config: a dict with a ``type``; "" for anything without one.
    """
    kind = config.get("type") if isinstance(config, dict) else None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2]


def dicts_in(node: Any) -> Iterator[Any]:
    """Each dict in a part of a config, the part itself if it is one included, before those inside it."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for inner in node if isinstance(node, (list, tuple)) else ():
        yield from dicts_in(inner)


def registered(part: Any, registry: Registry, config: Config) -> type | None:
    """The class that a part of a config builds; ``None`` if nothing is registered by its name.

    Args:
        part: a dict with a ``type``.
        registry: mmengine's root registry of such parts.
        config: the whole config, whose ``default_scope`` says which library's class a bare name means.
    """
    kind = part.get("type")
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(config.get("default_scope")) as scoped:
        return scoped.get(kind)


def use_registered_names(config: Config) -> None:
    """Write each type that is a class, or the path of one, as its registered name: the config of the older style, in place.

    mmengine builds both styles, but mmdet, mmseg and mmcv compare types with names in many places. Nor does mmengine find
    each path that it has written: a function hides the module of its name in ``mmdet.models.losses.iou_loss.IoULoss``.
    A config with such types and without a ``default_scope`` gets that of its model.
    """
    parts = (part for key in config.to_dict() for part in dicts_in(config[key]))  # to_dict: without what it imports
    found = [(part, kind) for part in parts if hasattr(kind := _kind(part), "__qualname__")]
    if not found:
        return
    if config.get("default_scope") is None and "model" in config:
        scope = _registered_names(None).get(_kind(config.model), "").rpartition(".")[0]
        if scope:
            config.default_scope = scope
    names = _registered_names(config.get("default_scope"))
    for part, kind in found:
        part["type"] = names.get(kind) or _path(kind)


def _kind(node: dict) -> Any:
    """The type of a dict; the object itself where the type is its path."""
    kind = node.get("type")
    if not isinstance(kind, str) or kind.count(".") < 2:
        return kind
    try:
        return resolve_name(":".join(kind.rsplit(".", 1)))
    except (ImportError, AttributeError):  # no path: mmengine tells what is wrong with it when it builds
        return kind


def _registered_names(scope: str | None) -> dict[Any, str]:
    """What is in mmengine's registries -> the name by which a config with this default scope finds it."""
    names: dict[Any, str] = {}
    for root in (r for r in vars(mmengine.registry).values() if isinstance(r, Registry)):
        family = {root.scope: root, **root.children}
        plain = {**root.module_dict, **(family[scope].module_dict if scope in family else {})}
        for owner, one in family.items():
            for name, kind in one.module_dict.items():
                names.setdefault(kind, name if plain.get(name) is kind else f"{owner}.{name}")
    return names


def _path(kind: Any) -> str:
    """The name of what is in no registry: its path, and for non-maximum suppression what mmcv's ``eval`` understands."""
    return kind.__name__ if kind.__module__ == "mmcv.ops.nms" else f"{kind.__module__}.{kind.__qualname__}"
