"""Names of types in configs, whichever of mmengine's two styles the config is written in."""

from typing import Any


def type_name(config: Any) -> str:
    """Bare class name of what a config builds: "FPN" for ``"FPN"``, ``"mmdet.FPN"`` and the class ``FPN``.

    Args:
        config: a dict with a ``type``; "" for anything without one.
    """
    kind = config.get("type") if isinstance(config, dict) else None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2]
