"""``tools/erf.py`` with two checkpoints, or beside an earlier result: the differences, and the exit code they lead to."""

import argparse
import sys
from pathlib import Path

from ...erf import ERFResult
from ...erf.compare import Comparison, difference
from ...erf.rules import GRAMMAR, Rule, failures
from ...files import write_csv
from ..loading import Loaded
from ..specs import parse_spec

TABLE = "difference.csv"
_INPUTS = ("images", "inputs", "num", "seed")  # the options that decide on the inputs


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--against`` and ``--fail-if``."""
    parser.add_argument(
        "--model", dest="of", metavar="NAME", help="the model; one or two checkpoints, which are compared, come first"
    )
    parser.add_argument("--against", metavar="FILE.npz", help="compare with a result that an earlier run has written")
    parser.add_argument(
        "--fail-if",
        nargs="+",
        metavar="RULE",
        default=[],
        help=f"exit with 1 if a number differs too much: {GRAMMAR.replace('%', '%%')}",
    )


def compared_models(model: str, checkpoint: str | None, of: str | None) -> list[list[str | None]]:
    """The models of a command line as pairs of a specification, with a label, and a checkpoint."""
    if of is None:
        return [[model, checkpoint]]
    if checkpoint is None:
        return [[of, model]]
    label, name, _ = parse_spec(of)
    if label not in (of, name):
        raise ValueError(f"--model {of}: two checkpoints are called by their files; leave out the label {label!r}.")
    return [
        [f"{label}={of}", file] for label, file in zip(_labels(model, checkpoint), (model, checkpoint), strict=True)
    ]


def _labels(first: str, second: str) -> tuple[str, str]:
    """The shortest ends of two paths that differ, without suffix."""
    paths = [Path(name).resolve().with_suffix("").parts for name in (first, second)]
    if paths[0] == paths[1]:
        raise ValueError(f"the two checkpoints are one: {first} and {second}; give another one.")
    count = next(n for n in range(1, 1 + max(map(len, paths))) if paths[0][-n:] != paths[1][-n:])
    ends = ["-".join(parts[-count:]).replace("=", "-").translate(str.maketrans("()", "--")) for parts in paths]
    return ends[0], ends[1]


def check_comparison(args: argparse.Namespace) -> tuple[list[Rule], ERFResult | None]:
    """The rules and the earlier result, read before anything is computed.

    Raises:
        ValueError: a rule cannot be read, or is about nothing that the earlier result has, or there is nothing to compare.
    """
    rules = [Rule.parse(text) for text in args.fail_if]
    two = args.of is not None and args.checkpoint is not None
    if args.against and (two or len(args.models) > 1):
        raise ValueError("--against compares one model; leave out the second checkpoint, or --compare.")
    if rules and not two and not args.against:
        raise ValueError("--fail-if needs two results: --against FILE.npz, or two checkpoints and --model NAME.")
    baseline = ERFResult.load(args.against) if args.against else None
    if baseline is not None:
        failures(difference(baseline, baseline), rules)  # rules about layers or numbers that it does not have
    return rules, baseline


def check_baseline(args: argparse.Namespace, baseline: ERFResult | None, first: Loaded, size: tuple[int, int]) -> None:
    """Raise ``ValueError`` if an earlier result is of images of another size than those that are to be computed.

    Of several inputs, or of a tracker's, ``difference`` tells it once they are computed.
    """
    if baseline is None or args.inputs or first.is_tracker:
        return
    before = tuple(baseline.info["input_shape"][-2:])
    if before != tuple(size):
        raise ValueError(
            f"--against {args.against} is of images of {before[0]}x{before[1]}, and these have {size[0]}x{size[1]}; give "
            f"--input-size {before[0]} {before[1]}, or another file."
        )


def compared(
    args: argparse.Namespace, results: dict[str, ERFResult], baseline: ERFResult | None
) -> tuple[tuple[str, str], Comparison] | None:
    """The names of two results and how they differ, if two are to be compared; says if a baseline had other inputs.

    Args:
        args: the command line.
        results: label -> result, of the two checkpoints first.
        baseline: an earlier result, which the first result is compared with instead.
    """
    (label, result), *others = results.items()
    if baseline is not None:
        if other := _other_inputs(baseline, result):
            print(f"warning: {args.against} is of other inputs ({other}).", file=sys.stderr)
        return ("baseline", label), difference(baseline, result)
    if args.of is not None and args.checkpoint is not None:
        return (label, others[0][0]), difference(result, others[0][1])
    return None


def _other_inputs(baseline: ERFResult, result: ERFResult) -> str:
    """How the inputs of two results that this tool has written differ, as far as their command lines tell."""
    before, now = (r.info.get("request", {}) for r in (baseline, result))
    names = [name for name in _INPUTS if name in before and before[name] != now.get(name)]
    return ", ".join(f"--{name} {before[name]} instead of {now.get(name)}" for name in names)


def tell(args: argparse.Namespace, found: tuple[tuple[str, str], Comparison] | None, rules: list[Rule]) -> list[str]:
    """Print and write how two results differ, if two were compared; returns a line for each broken rule.

    Args:
        args: the command line.
        found: what ``compared`` gave.
        rules: by how much numbers may change.
    """
    if found is None:
        return []
    names, comparison = found
    print(f"a: {names[0]}, b: {names[1]}\n{comparison}", file=sys.stderr if args.json else sys.stdout)
    write_csv(Path(args.out) / TABLE, comparison.rows())
    return failures(comparison, rules)
