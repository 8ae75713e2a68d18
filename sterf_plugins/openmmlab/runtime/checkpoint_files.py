"""Checkpoints by a path or by an address that mmengine can fetch."""

from collections.abc import Mapping
from typing import Any

from mmengine.runner import CheckpointLoader

from ...checkpoints import read_checkpoint


def read_local_or_remote(path: str) -> Mapping[str, Any]:
    """The checkpoint in a local file, or at an address such as ``https://…`` or ``torchvision://…``.

    Local files are read without running what is in them (``checkpoints.read_checkpoint``).

    Raises:
        ValueError: the file is missing, no checkpoint or refused, or the address cannot be fetched.
    """
    if "://" not in path:
        return read_checkpoint(path)
    try:
        return CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except Exception as error:  # whatever the network or a server raises
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"checkpoint {path} cannot be fetched ({line}); give the path of a local file.") from error
