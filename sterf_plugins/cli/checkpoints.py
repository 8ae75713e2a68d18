"""What checkpoint files may call when a command-line tool reads them: nothing but what the user allows by name."""

import argparse
import pkgutil
from collections.abc import Mapping

import torch

from ..checkpoints.sd_track import entries_of


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-in-checkpoint``, for files that the user trusts."""
    parser.add_argument(
        "--allow-in-checkpoint",
        nargs="+",
        type=allow,
        default=[],
        metavar="NAME",
        help="class or function that checkpoint files may call, by the name in the refusal; for files that you trust",
    )


def allow(name: str) -> str:
    """Let checkpoints that this process reads call ``module.name``; returns the name, as argparse wants it.

    Raises:
        argparse.ArgumentTypeError: there is nothing of that name.
    """
    try:
        target = pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be imported ({error}); give module.name.") from error
    torch.serialization.add_safe_globals([(target, name)])
    return name


def check_not_published_tracker(checkpoint: Mapping, path: str) -> None:
    """Raise ``ValueError`` for a published SDTrack, whose entries have the names of its authors.

    Args:
        checkpoint: as it was read.
        path: its file, for messages.
    """
    if any(key.startswith("box_head.") for key in entries_of(checkpoint)):
        raise ValueError(
            f"checkpoint {path} is an SDTrack under the names of its authors; make one of this package, which can be loaded: "
            f"sterf convert {path} ours.pth"
        )
