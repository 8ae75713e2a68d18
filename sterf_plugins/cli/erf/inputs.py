"""The options of ``tools/erf.py`` for models that take something else than one image: several inputs, signals, videos."""

import argparse
import re
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from ...erf.inputs.axes import Axes
from ..images import inputs_for, joined
from ..loading import Loaded

_SHAPE = r"\d+(?:x\d+)+"


def add_input_options(p: argparse.ArgumentParser) -> None:
    """Add the options that say what a model of other inputs than images is given."""
    p.add_argument(
        "--inputs",
        nargs="+",
        metavar="[NAME=]SHAPE|FILE|DIR@SHAPE",
        help="what a model of several inputs, signals or videos is given, for each positional argument, or by name for "
        "keyword arguments: noise of a shape without the batch axis (3x64x64, search=3x128x128), an array in a .npy file, "
        "its batch axis as --axes says (search=clips.npy), or the images of a folder, as large as a shape "
        "(template=photos@3x64x64)",
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


def given_inputs(args: argparse.Namespace, loaded: Loaded) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor] | None:
    """What ``--inputs`` asks for, as ``compute_erf`` takes it; ``None`` without the option.

    Args:
        args: the options of the tool.
        loaded: the model, which decides on the normalisation of images.

    Raises:
        ValueError: an input cannot be read, or an option contradicts another.
    """
    if not args.inputs:
        for name in ("wrt", "axes"):
            if getattr(args, name):
                raise ValueError(f"--{name} is about --inputs; give their shapes, such as --inputs 3x64x64 3x32x32.")
        return None
    if loaded.config is not None:
        raise ValueError(
            f"--inputs is for models that are no config; {loaded.label} takes images: give --images DIR, val or noise, and "
            f"--input-size H W for another size."
        )
    found = [re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(.+)", text) for text in args.inputs]
    names, sources = [match[1] for match in found if match], [match[2] for match in found if match]
    if (any(names) and not all(names)) or len(set(names)) < len([name for name in names if name]):
        raise ValueError("--inputs: give each a name of its own, or none a name.")
    others = ("theory", "check", "sizes", "input_size", "time_steps", "temporal")
    given = [name for name in others if getattr(args, name)] + (["images"] if args.images != "noise" else [])
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for models of one image; leave it out, or --inputs.")
    generator = torch.Generator().manual_seed(args.seed)
    tensors = [_input(source, args, loaded, generator) for source in sources]
    if all(names):
        return dict(zip(names, tensors, strict=True))
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def is_noise(args: argparse.Namespace) -> bool:
    """Whether all ``--inputs`` are noise."""
    return all(re.fullmatch(rf"(?:[A-Za-z_]\w*=)?{_SHAPE}", text) for text in args.inputs)


def entries(args: argparse.Namespace) -> list[str | int] | None:
    """The value of ``--wrt`` as ``compute_erf`` takes it."""
    return [int(name) if name.isdecimal() else name for name in args.wrt] if args.wrt else None


def _input(source: str, args: argparse.Namespace, loaded: Loaded, generator: torch.Generator) -> Tensor:
    """One of ``--inputs``, with at most ``--num`` entries along its batch axis."""
    if re.fullmatch(_SHAPE, source):
        return _noise([int(n) for n in source.split("x")], args.axes, args.num, generator)
    folder, _, shape = source.rpartition("@")
    if folder and re.fullmatch(_SHAPE, shape):
        channels, *size = (int(n) for n in shape.split("x"))
        if len(size) != 2 or channels != len(loaded.mean):
            raise ValueError(
                f"--inputs {source}: images of {loaded.label} are {len(loaded.mean)}xROWSxCOLUMNS; give such a shape, or a "
                f".npy file of any other."
            )
        return joined(inputs_for(folder, loaded, (size[0], size[1]), args.num, args.seed))
    if Path(source).suffix != ".npy" or not Path(source).is_file():
        raise ValueError(
            f"--inputs {source}: give a shape such as 3x64x64 (noise), a .npy file of an array with its batch axis, or a folder "
            f"of images and their shape, such as photos@3x64x64; before it NAME= for a keyword argument."
        )
    try:
        array = np.load(source, allow_pickle=False)
        tensor = torch.from_numpy(array)
    except (ValueError, TypeError, OSError, EOFError, TokenError) as error:
        raise ValueError(
            f"--inputs {source} is no readable array of numbers ({error}); write it by numpy.save."
        ) from error
    at = Axes.parse(args.axes).batch if args.axes and len(args.axes) == tensor.ndim else 0
    if tensor.ndim < 2:
        raise ValueError(
            f"--inputs {source} has shape {tuple(tensor.shape)}; its batch axis comes first, or as --axes says."
        )
    return tensor.narrow(at, 0, min(args.num, tensor.shape[at]))


def _noise(shape: list[int], axes: str | None, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise with a batch axis where the axes have it; in front of inputs of another kind."""
    if min(shape) < 1:
        raise ValueError(f"--inputs {'x'.join(map(str, shape))}: a shape has at least 1 along each axis.")
    letters = Axes.parse(axes).letters if axes else ""
    at = letters.index("N") if len(letters) == len(shape) + 1 else 0
    return torch.randn(*shape[:at], count, *shape[at:], generator=generator)
