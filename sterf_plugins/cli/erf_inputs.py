"""The options of ``tools/erf.py`` for models that take something else than one image: several inputs, signals, videos."""

import argparse
import re

import torch
from torch import Tensor

from ..erf.axes import Axes


def add_input_options(p: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    p.add_argument(
        "--inputs",
        nargs="+",
        metavar="[NAME=]SHAPE",
        help="noise of these shapes, without the batch axis, instead of images: 3x64x64 for each positional argument of "
        "the model, or search=3x128x128 for keyword arguments",
    )
    p.add_argument(
        "--wrt",
        nargs="+",
        metavar="NAME|INDEX",
        help="which of several --inputs get maps (default: all that are images)",
    )
    p.add_argument(
        "--axes", metavar="LETTERS", help="the axes of --inputs, such as NCTHW (videos), NCL (signals); default: NCHW"
    )


def given_inputs(args: argparse.Namespace) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor] | None:
    """What ``--inputs`` asks for, as ``compute_erf`` takes it; ``None`` without the option.

    Raises:
        ValueError: a shape cannot be read, or an option contradicts another.
    """
    if not args.inputs:
        for name in ("wrt", "axes"):
            if getattr(args, name):
                raise ValueError(f"--{name} is about --inputs; give their shapes, such as --inputs 3x64x64 3x32x32.")
        return None
    found = [re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)+)", text) for text in args.inputs]
    for text, match in zip(args.inputs, found, strict=True):
        if match is None:
            raise ValueError(f"--inputs {text}: give a shape such as 3x64x64, or NAME=3x64x64.")
    names = [match[1] for match in found if match]
    shapes = [[int(n) for n in match[2].split("x")] for match in found if match]
    if (any(names) and not all(names)) or len(set(names)) < len([name for name in names if name]):
        raise ValueError("--inputs: give each a name of its own, or none a name.")
    others = ("theory", "check", "sizes", "input_size", "time_steps", "temporal")
    given = [name for name in others if getattr(args, name)] + (["images"] if args.images != "noise" else [])
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for models of one image; leave it out, or --inputs.")
    generator = torch.Generator().manual_seed(args.seed)
    tensors = [_noise(shape, args.axes, args.num, generator) for shape in shapes]
    if all(names):
        return dict(zip(names, tensors, strict=True))
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def entries(args: argparse.Namespace) -> list[str | int] | None:
    """The value of ``--wrt`` as ``compute_erf`` takes it."""
    return [int(name) if name.isdecimal() else name for name in args.wrt] if args.wrt else None


def _noise(shape: list[int], axes: str | None, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise with a batch axis where the axes have it; in front of inputs of another kind."""
    if min(shape) < 1:
        raise ValueError(f"--inputs {'x'.join(map(str, shape))}: a shape has at least 1 along each axis.")
    letters = Axes.parse(axes).letters if axes else ""
    at = letters.index("N") if len(letters) == len(shape) + 1 else 0
    return torch.randn(*shape[:at], count, *shape[at:], generator=generator)
