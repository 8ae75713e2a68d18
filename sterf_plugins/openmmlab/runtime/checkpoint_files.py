"""Checkpoints by a path or by an address that mmengine can fetch, read without running what is in them.

mmengine itself reads a file that is more than plain data once more, and runs it. Importing this module puts the two
loaders below in the place of mmengine's own, so that ``load_from``, ``resume`` and every ``init_cfg`` refuse such files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ...checkpoints import read_checkpoint, state_dict_of
from ...checkpoints.reading import averaged_beside, below


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: Any = "cpu") -> Mapping[str, Any]:
    """The checkpoint in a local file; see ``checkpoints.read_checkpoint``."""
    return _unwrapped(read_checkpoint(Path(filename).expanduser(), map_location))


@CheckpointLoader.register_scheme(prefixes=("http://", "https://"), force=True)
def load_from_http(filename: str, map_location: Any = "cpu") -> Mapping[str, Any]:
    """The checkpoint at an address, which PyTorch's folder of downloads keeps; the main process fetches it first."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(filename).path).name)
    if is_main_process():
        _fetch(filename, path)
    barrier()
    _fetch(filename, path)  # on a machine that has no such file yet
    return _unwrapped(read_checkpoint(path, map_location))


def read_weights(path: str, prefix: str = "") -> dict[str, Any]:
    """The state dict of a checkpoint, or what of it is below a prefix, as ``init_cfg=dict(type="Pretrained", …)`` names them.

    Args:
        path: a local file, or an address.
        prefix: of the wanted entries, such as "student.backbone"; it is taken off. Empty for all entries as they are.

    Raises:
        ValueError: the checkpoint cannot be read, or nothing in it has this prefix.
    """
    checkpoint = read_local_or_remote(path)
    for line in averaged_beside(checkpoint):
        print_log(f"checkpoint {path}: {line}", logger="current")
    state = state_dict_of(checkpoint)
    if not prefix:
        return state
    start = prefix.rstrip(".") + "."
    found = below(state, start)
    if not found:
        parts = sorted({key.split(".")[0] for key in state})
        raise ValueError(
            f"`init_cfg`: `prefix` is {prefix!r}, and no entry of {path} starts with {start!r}; they start with "
            f"{', '.join(parts[:5])}."
        )
    return found


def _unwrapped(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint with a state dict as ``state_dict_of`` gives it: mmengine has ways to read that keep prefixes."""
    state = checkpoint.get("state_dict", checkpoint)
    bare = state_dict_of(checkpoint)
    if not isinstance(state, Mapping) or bare.keys() == state.keys():
        return checkpoint
    return {**checkpoint, "state_dict": bare} if "state_dict" in checkpoint else bare


def _fetch(address: str, path: Path) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path))


def read_local_or_remote(path: str) -> Mapping[str, Any]:
    """The checkpoint in a local file, or at an address such as ``https://…`` or ``torchvision://…``.

    Raises:
        ValueError: the file is missing, no checkpoint or refused, or the address cannot be fetched.
    """
    if "://" not in path:
        return load_from_local(path)
    try:
        return CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except (OSError, KeyError) as error:  # no network, no such file, or a name that the scheme does not have
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"checkpoint {path} cannot be fetched ({line}); give the path of a local file.") from error
