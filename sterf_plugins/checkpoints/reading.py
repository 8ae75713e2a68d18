"""Checkpoint files, read without running what is in them."""

import argparse
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checks import as_path
from ..layers.described import metadata_of, with_metadata

DESCRIPTIONS = "sterf_plugins"  # key in safetensors files of what their modules' arguments are, as JSON
AUTHORS_CODE = "lib."  # the package of SDTrack's training code, of whose classes its checkpoints hold objects


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> Mapping[str, Any]:
    """Read a checkpoint file of ours, of mmengine, of timm or of the papers' releases, or a safetensors file.

    Only tensors, containers, numbers and what the published files hold besides are allowed: ``argparse.Namespace``,
    numpy arrays, mmengine's log buffers. Objects of SDTrack's own training code become ``Inert``. Anything else in the pickle
    is refused, by name, before it is built, unless ``torch.serialization.add_safe_globals`` has been told to allow it.

    Args:
        path: the file.
        map_location: where the tensors go, as in ``torch.load``.

    Raises:
        ValueError: the file is missing or truncated, would run code when loaded, or does not hold a mapping.
    """
    import torch

    path = as_path("path", path)
    if not path.is_file():
        raise ValueError(
            f"checkpoint {path} cannot be read: there is no checkpoint of that name. Nothing is downloaded, so give "
            f"the path of a local file."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path, map_location)
    try:
        with torch.serialization.safe_globals([*harmless_globals(), *_inert_classes(path)]):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if match:
            raise ValueError(
                f"checkpoint {path} is refused: it wants to call {match[1]}, which is neither a tensor nor one of the "
                f"plain types that checkpoints hold. Do not load files that you do not trust. If you do trust this one, "
                f"allow that name: --allow-in-checkpoint {match[1]} (in Python: torch.serialization.add_safe_globals)."
            ) from None
        raise ValueError(
            f"checkpoint {path} cannot be read: it is none, or its pickle does more than name tensors and plain values. "
            f"Do not load files that you do not trust."
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read, it is truncated or no checkpoint ({_line(error)})."
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}, not tensors by name.")
    return checkpoint


def _read_safetensors(path: Path, device: Any) -> Mapping[str, Any]:
    """The tensors of a safetensors file, as timm and the Hugging Face hub write them, by name.

    Files of ``sterf card`` also have what no shape tells, which becomes the metadata of a state dict.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(DESCRIPTIONS, "{}"))
        metadata = {name: dict(description=description) for name, description in told.items()}
        return with_metadata(load_file(path, "cpu" if device is None else str(device)), metadata)
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint {path} cannot be read, it is truncated or no safetensors file ({error})."
        ) from None


class Inert:
    """What stands for an object whose class is not here: its attributes, without any code."""

    def __init__(self, *arguments: object):
        self.arguments = arguments


def _inert_classes(path: Path) -> list[Any]:
    """A class for each name of SDTrack's training code that a file mentions, such as its settings, as PyTorch takes them."""
    import torch

    if not zipfile.is_zipfile(path):  # PyTorch lists the names of such files alone
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names if name.startswith(AUTHORS_CODE)]


def _line(error: Exception) -> str:
    """An error's type and the start of its message."""
    return f"{type(error).__name__}: {str(error).split('. ')[0][:100]}"


def harmless_globals() -> list[Any]:
    """Classes and functions that a checkpoint's pickle may name, in addition to those that PyTorch allows.

    In the form that ``torch.serialization.safe_globals`` takes.
    """
    import numpy as np

    allowed: list[Any] = [argparse.Namespace, np.ndarray, np.dtype, *(type(np.dtype(c)) for c in "?bBhHiIlLqQefdSUO")]
    # The functions that numpy's own pickles name; numpy 1 had them in ``numpy.core``.
    functions: list[Any] = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    for function in functions:
        name = function.__name__
        allowed += [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return allowed

    def statistic(owner: Any, name: str) -> Any:
        """Stands in for ``getattr``, by which mmengine's pickled log buffers name their methods; nothing else may."""
        if owner is HistoryBuffer and name in ("min", "max", "mean", "current", "global_mean"):
            return getattr(owner, name)
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr({owner!r}, {name!r})")

    return [*allowed, HistoryBuffer, (statistic, "builtins.getattr"), (statistic, "__builtin__.getattr")]


# entries of a checkpoint that may hold the weights, in this order, and names of averaged weights beside them
_ENTRIES = ("state_dict", "model", "state_dict_ema")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")


def weights_beside(checkpoint: Mapping) -> list[str]:
    """Names of averaged weights that a checkpoint has beside those that ``state_dict_of`` takes."""
    taken = [name for name in _ENTRIES if isinstance(checkpoint.get(name), Mapping)][:1]
    return [name for name in _AVERAGED if taken and checkpoint.get(name) is not None and name not in taken]


def averaged_beside(checkpoint: Mapping) -> list[str]:
    """A line about averaged weights that are in a checkpoint, but not in what ``state_dict_of`` takes; none if there are none.

    mmengine's ``EMAHook`` puts the averaged weights into ``state_dict`` itself, and keeps the others as ``ema_state_dict``.
    """
    by_mmengine = "meta" in checkpoint
    names = [name for name in weights_beside(checkpoint) if not (by_mmengine and name == "ema_state_dict")]
    return [
        f"the averaged weights {name!r} in this file are not taken; to take them, write them as a checkpoint of their own: "
        f"torch.save(sterf_plugins.checkpoints.read_checkpoint(FILE)[{name!r}], OTHER)."
        for name in names[:1]
    ]


def state_dict_of(checkpoint: Mapping) -> dict[str, Any]:
    """The state dict in a checkpoint, without the prefixes of models that were wrapped, and with its metadata.

    The prefixes are ``module.`` (for several processes) and ``_orig_mod.`` (by ``torch.compile``), in any order.

    Args:
        checkpoint: a state dict, or a mapping that holds one under ``state_dict``, ``model`` or ``state_dict_ema``.

    Raises:
        TypeError: it is no mapping.
    """
    if not isinstance(checkpoint, Mapping):
        raise TypeError(
            f"`checkpoint` is a {type(checkpoint).__name__}; give a state dict, or what read_checkpoint(FILE) returns."
        )
    for name in _ENTRIES:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
    return renamed(checkpoint, lambda name: re.sub(r"^(module\.|_orig_mod\.)+", "", name))


def renamed(state: Mapping, name_of: Callable[[str], str | None]) -> OrderedDict[str, Any]:
    """The entries under other names, and what the metadata says of their modules; ``None`` leaves an entry out.

    Args:
        state: a state dict. PyTorch's own have metadata in an attribute.
        name_of: function of an entry's name, or of a module's name and a point.
    """
    entries = [(name_of(str(key)), value) for key, value in state.items()]
    modules = [(name_of(f"{key}." if key else ""), value) for key, value in metadata_of(state).items()]
    return with_metadata(
        ((name, value) for name, value in entries if name is not None),
        {name.removesuffix("."): value for name, value in modules if name is not None},
    )


def below(state: Mapping, start: str) -> OrderedDict[str, Any]:
    """The entries whose names have a beginning, such as "backbone.", without it."""
    return renamed(state, lambda name: name.removeprefix(start) if name.startswith(start) else None)
