"""Options of ``tools/erf.py`` about what fields are computed, and how their texts are read."""

import argparse
import ast
from typing import Any

from ...erf.passes.fields import REDUCTIONS
from ...erf.protocols import PROTOCOLS, Protocol

PEAK = "peak"  # the position of a tracker's highest score


def add_field_options(p: argparse.ArgumentParser) -> None:
    """Add the options that say which inputs, how many of them, and which fields of them."""
    p.add_argument(
        "--protocol",
        choices=[*PROTOCOLS, "all"],
        help="a published definition, with its number and size of images; all: every layer by each, as a table",
    )
    p.add_argument(
        "--num", type=int, help="number of inputs, the most of them with --tolerance (default: the protocol's, or 64)"
    )
    p.add_argument("--tolerance", type=float, help="stop when the relative standard error is below this, such as 0.05")
    p.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the protocol's, or the first model's own"
    )
    p.add_argument("--untrained", action="store_true", help="add each model with random weights, for comparison")
    p.add_argument("--pretrained", action="store_true", help="timm's own weights")
    p.add_argument(
        "--calibrate",
        default="auto",
        choices=["auto", "always", "never"],
        help="give BatchNorms the statistics of the first 8 inputs: those that still have initial ones, all, or none",
    )
    p.add_argument("--temporal", action="store_true", help="fields in time as well; images are held for --time-steps")
    p.add_argument(
        "--time-steps",
        type=int,
        metavar="T",
        help="T of the inputs (default with --temporal: the model's or its videos', or 4)",
    )
    p.add_argument(
        "--position",
        default="center",
        help="center, all, or row,col as ints or fractions, of a video frame,row,col; of a tracker also peak: where the score "
        "is highest",
    )
    p.add_argument("--reduce", choices=list(REDUCTIONS), help="default: the protocol's, or abs")
    p.add_argument(
        "--channels",
        metavar="auto|sum|relu|per-channel|K",
        help="auto: the sum, or 8 random projections where it is constant (behind a LayerNorm); K: so many projections; "
        "default: the protocol's, or auto",
    )
    p.add_argument(
        "--calls", default="all", metavar="all|first|last|N", help="which calls of a layer that is called several times"
    )
    p.add_argument("--aggregate", default="mean", choices=["mean", "median"], help="how to average over inputs")
    p.add_argument(
        "--target", default="module", choices=["module", "block"], help="block: the block around each module"
    )
    p.add_argument(
        "--grid", type=int, nargs=2, metavar=("ROWS", "COLS"), help="size of the token grid, if it is unclear"
    )
    p.add_argument(
        "--layout", choices=["BCHW", "BHWC", "BNC", "BCN", "BC"], help="axes of outputs, if they are unclear"
    )


def parse_position(text: str) -> Any:
    """The value of ``--position`` as ``compute_erf`` takes it."""
    if text in ("center", "all"):
        return text
    if text == PEAK:
        return "center"  # of the one pixel that is read of a tracker's layers
    try:
        position = tuple(ast.literal_eval(part.strip()) for part in text.split(","))
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"--position {text}: give center, all, or row,col such as 0.5,0.25; of a video frame,row,col."
        ) from error
    return position


def protocol_of(args: argparse.Namespace) -> Protocol:
    """The definition that ``--protocol`` names; ST-ERF's without the option, and where a layer is shown by each of them."""
    return PROTOCOLS.get(args.protocol, PROTOCOLS["st-erf"])


def number_or(option: str, text: str, *names: str) -> str | int:
    """An option that is one of some names or a number; ``ValueError`` if it is neither."""
    if text in names:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{option} {text}: give {', '.join(names)} or a number.") from error
