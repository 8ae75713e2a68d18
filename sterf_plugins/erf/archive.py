"""The file of a result: an ``.npz`` of arrays and of JSON texts."""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_path
from ..files import replacing

DOCUMENTS = ("info", "numbers", "pseudo")


def write(
    path: str | os.PathLike,
    layers: list[str],
    documents: Mapping[str, Any],
    fields: Mapping[str, Mapping[str, np.ndarray]],
) -> Path:
    """Write ``layers``, the documents as JSON, and arrays ``<kind>.<i>`` of layer i."""
    arrays: dict[str, Any] = {
        f"{kind}.{i}": of_layers[name]
        for kind, of_layers in fields.items()
        for i, name in enumerate(layers)
        if name in of_layers
    }
    arrays |= {name: np.array(json.dumps(document)) for name, document in documents.items()}
    return save(path, dict(layers=np.array(layers), **arrays))


def save(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], compressed: bool = True) -> Path:
    """Write arrays as an ``.npz`` file of this very name, whatever it ends in; a file that is there is replaced as a whole."""
    path = as_path("path", path)
    with replacing(path) as partial, open(partial, "wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return path


@contextmanager
def arrays(path: str | os.PathLike, what: str, names: tuple[str, ...]) -> Iterator[Any]:
    """The arrays of an ``.npz`` file by name.

    Args:
        path: the file.
        what: what it has to be, for the message.
        names: arrays that such a file has.

    Raises:
        ValueError: the file is something else.
    """
    with open(as_path("path", path), "rb") as opened:  # a number would be taken for a file that is open already
        if not zipfile.is_zipfile(opened):
            raise ValueError(f"{path} is no {what}: it is no .npz file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            if {*names} <= {*file.files}:
                yield file
                return
            found = ", ".join(file.files)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}; it is damaged, or of another program.") from error
    raise ValueError(f"{path} is no {what}: it has {found}, not {' and '.join(f'`{name}`' for name in names)}.")


def read(
    path: str | os.PathLike, kinds: tuple[str, ...]
) -> tuple[list[str], dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What ``write`` wrote: layers, documents (empty where there is none), and kind -> layer -> array.

    Raises:
        ValueError: the file is no result, such as that of a check, which has no such fields.
    """
    with arrays(path, "ERF result", ("layers", "info")) as file:
        layers = [str(name) for name in file["layers"]]
        documents = {name: json.loads(str(file[name])) if name in file else {} for name in DOCUMENTS}
        fields = {
            kind: {name: file[f"{kind}.{i}"] for i, name in enumerate(layers) if f"{kind}.{i}" in file}
            for kind in kinds
        }
    if not any(fields.values()):
        raise ValueError(f"{path} is no ERF result: it has no field of any layer.")
    return layers, documents, fields
