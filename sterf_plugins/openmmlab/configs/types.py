"""Types in configs, whichever of mmengine's two styles the config is written in."""

from typing import Any

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
