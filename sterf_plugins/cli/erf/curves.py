"""The options of ``tools/erf.py`` for theoretical fields, several image sizes and frequency responses."""

import argparse
import math
from collections.abc import Mapping

from ...erf.figures.wording import digits, named
from ...erf.protocols import PROTOCOLS
from ...erf.result import ERFResult
from ...erf.sweep import Size
from ...erf.theory.field import advice, theory_of


def add_curve_options(p: argparse.ArgumentParser) -> None:
    """Add the options of theoretical fields and of curves over depth, image size or frequency."""
    p.add_argument(
        "--theory",
        action="store_true",
        help="theoretical fields beside the effective ones, and what they say about depth and image size",
    )
    p.add_argument("--sizes", type=int, nargs="+", metavar="PIXELS", help="several sizes of square images, as a sweep")
    p.add_argument(
        "--frequency", action="store_true", help="gain and phase by frequency, of the signed field (--reduce signed)"
    )


def sizes_of(args: argparse.Namespace, default: Size) -> list[Size]:
    """The image sizes (H, W) to compute at, from the smallest to the largest.

    Raises:
        ValueError: the options contradict each other.
    """
    if args.frequency and args.reduce not in (None, "abs", "signed"):
        raise ValueError(f"--frequency needs the signed field; leave out --reduce {args.reduce}.")
    signed = [name for name, protocol in PROTOCOLS.items() if protocol.reduce == "signed"]
    if args.frequency and args.protocol not in (None, *signed):
        raise ValueError(
            f"--frequency needs the signed field, which --protocol {', '.join(signed)} has; leave out --protocol {args.protocol}."
        )
    if args.sizes and args.input_size:
        raise ValueError("--sizes and --input-size both name the size of the images; leave out one of them.")
    if args.frequency:
        args.reduce = "signed"
    return [(n, n) for n in sorted(set(args.sizes))] if args.sizes else [default]


def print_theory(results: Mapping[str, ERFResult]) -> None:
    """Print the theoretical fields, what is used of them, and the advice that follows."""
    for label, result in results.items():
        fields = theory_of(result)
        if not fields:
            continue
        print(f"{label}: theoretical fields")
        width = max(len(named(result, layer)) for layer in fields)
        for layer, field in fields.items():
            used = result.numbers(layer)["used_90"]
            share = "all" if field.area == 1 else digits(field.area)
            padding = "" if math.isnan(field.padding[0]) else f", padding {field.padding[0]:g}"
            print(
                f"  {named(result, layer):<{width}}  {field!s:>11}, stride {field.stride[0]:g}{padding}, "
                f"{share} of the image; 90 % of the mass on {used} of that"
            )
        h, w = result.info["input_shape"][-2:]
        for line in advice({named(result, layer): field for layer, field in fields.items()}, (h, w)):
            print(f"  {line}")
