"""By what the result of ``tools/erf.py`` in a file is known to be that of the same settings, weights and images."""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...erf import ERFResult
from ..images import image_files, named_recording
from ..specs import is_config, is_timm, parse_spec


def request_of(args: argparse.Namespace, job: Sequence[Any], size: tuple[int, int], theory: bool) -> dict[str, Any]:
    """All that a result of a model depends on, by which it is known again."""
    _, spec, checkpoint, untrained = job
    names = (
        "layers", "images", "num", "tolerance", "protocol", "temporal", "time_steps", "position", "reduce", "channels",
        "calls", "aggregate", "target", "grid", "layout", "seed", "calibrate", "pretrained",
    )  # fmt: skip
    request = {name: getattr(args, name) for name in names}
    stamp = Path(checkpoint).stat().st_mtime if checkpoint and Path(checkpoint).is_file() else None
    request |= dict(spec=spec, checkpoint=checkpoint, written=stamp, size=list(size), untrained=untrained)
    request |= dict(files=digests) if (digests := _contents(args, spec)) else {}
    request |= dict(theory=True) if theory else {}
    return request | {name: getattr(args, name) for name in ("inputs", "wrt", "axes") if getattr(args, name)}


def stored(path: Path, request: dict[str, Any], overwrite: bool) -> ERFResult | None:
    """The result in a file, if it is there and of this request; ``ValueError`` if it is of another one that is to be kept."""
    if not path.is_file():
        return None
    try:
        result = ERFResult.load(path)
    except ValueError as error:
        if not overwrite:
            raise ValueError(f"{error} Give another --out, or --overwrite to replace it.") from error
        return None
    if result.info.get("request") == json.loads(json.dumps(request)):
        return result
    check_replaced(path, overwrite)
    return None


def check_replaced(path: Path, overwrite: bool) -> None:
    """Raise ``ValueError``, unless ``overwrite``, about a file that holds a result of another request."""
    if not overwrite:
        raise ValueError(
            f"{path} exists and was computed with other settings or files; give another --out, or --overwrite to replace it."
        )


def _contents(args: argparse.Namespace, spec: str) -> dict[str, str]:
    """What the config or the factory's file of a model, arrays and folders of images hold, as digests.

    A result of others is no result of these.
    """
    _, name, options = parse_spec(spec)
    found = {}
    if is_config(name):
        from ...openmmlab.configs.reading import load_config

        found[name] = load_config(name, options).pretty_text
    elif not is_timm(spec):
        file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None) or ""
        if file.endswith(".py"):
            found[name] = Path(file).read_text(encoding="utf-8")
    recording = named_recording(args.images)
    images = str(recording[0]) if recording else args.images
    for source in (images, *(re.sub(r"^[A-Za-z_]\w*=|@[\dx]+$", "", source) for source in args.inputs or ())):
        files = [Path(source)] if Path(source).is_file() else []
        with suppress(ValueError):  # a folder without images, as those of trackers, or none
            files = files or image_files(source, args.num)
            found[source] = str([(str(p), p.stat().st_size, p.stat().st_mtime) for p in files])
    return {name: digest(text) for name, text in found.items()}


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
