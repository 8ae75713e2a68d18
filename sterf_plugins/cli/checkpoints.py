"""What checkpoint files may call when a command-line tool reads them: nothing but what the user allows by name."""

import argparse
import pkgutil

import torch


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
