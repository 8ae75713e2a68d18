"""The options of ``tools/erf.py`` for theoretical fields, several image sizes and frequency responses, and their files."""

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ..erf.charts import draw_growth, draw_responses, draw_sweep
from ..erf.result import ERFResult
from ..erf.sweep import Size, sweep_rows
from ..erf.theoretical_field import advice, theory_of
from ..files import replacing

CURVE_FILES = ("sweep.csv", *(f"{n}.{s}" for n in ("theory", "sweep", "frequency") for s in ("png", "pdf")))


def add_curve_options(p: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
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
    if args.sizes and args.input_size:
        raise ValueError("--sizes and --input-size both name the size of the images; leave out one of them.")
    if args.frequency:
        args.reduce = "signed"
    return [(n, n) for n in sorted(set(args.sizes))] if args.sizes else [default]


def write_curves(
    results: Mapping[str, ERFResult], sweeps: Mapping[str, Mapping[Size, ERFResult]], frequency: bool, folder: Path
) -> list[Path]:
    """Write the figures and the table that the options ask for.

    Args:
        results: label of the model -> its result at the largest image.
        sweeps: label of the model -> size -> result; a figure of them is drawn where there are several sizes.
        frequency: whether frequency responses are wanted.
        folder: folder of the results.

    Returns:
        The paths of the PNG files.
    """
    figures = {}
    known = {label: result for label, result in results.items() if theory_of(result)}
    if known:
        figures["theory"] = draw_growth(known)
    if any(len(sweep) > 1 for sweep in sweeps.values()):
        figures["sweep"] = draw_sweep(sweeps)
        _write_csv(sweeps, folder / "sweep.csv")
    if frequency:
        figures["frequency"] = draw_responses(results)
    for name, figure in figures.items():
        for suffix in ("png", "pdf"):
            with replacing(folder / f"{name}.{suffix}") as partial:
                figure.savefig(partial, dpi=120)
    return [folder / f"{name}.png" for name in figures]


def print_theory(results: Mapping[str, ERFResult]) -> None:
    """Print the theoretical fields, what is used of them, and the advice that follows."""
    for label, result in results.items():
        fields = theory_of(result)
        if not fields:
            continue
        print(f"{label}: theoretical fields")
        width = max(map(len, fields))
        for layer, field in fields.items():
            used = result.numbers(layer)["used_90"]
            print(
                f"  {layer:<{width}}  {field!s:>11}, stride {field.stride[0]:g}, padding {field.padding[0]:g}, "
                f"{field.area:.3f} of the image; 90 % of the mass on {used.value:.3f} ± {used.error:.1g} of that"
            )
        h, w = result.info["input_shape"][-2:]
        for line in advice(fields, (h, w)):
            print(f"  {line}")


def _write_csv(sweeps: Mapping[str, Mapping[Size, ERFResult]], path: Path) -> None:
    rows = [{"model": label, **row} for label, sweep in sweeps.items() for row in sweep_rows(sweep)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
