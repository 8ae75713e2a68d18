"""The check of ``tools/erf.py --check``: fields beside measured changes, and beside those of randomised weights."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor, nn

from ...erf import ERFResult, FieldCheck, check_field, randomise_field
from ...erf.numbers.number import Number
from ...erf.summary import counted
from ...files import write_csv
from ..images import inputs_for, joined
from ..loading import Loaded
from ..progress import progress_bar
from ..specs import slug_of
from .options import protocol_of
from .requests import check_replaced

OCCLUSION, RANDOMISATION = "occlusion", "randomisation"
CHECK_FILES = ("checks.csv", "randomised.csv")


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that check a field by something that is no gradient."""
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="HOW",
        help="compare fields with measured changes: occlusion (patches replaced by the mean), other (by those of another "
        "input), a number (noise of so many standard deviations) or flip (single spikes of event frames); randomisation: with "
        "fields of randomised weights",
    )
    parser.add_argument(
        "--check-cells", type=int, metavar="N", help="N x N patches (default: the finest for the budget)"
    )
    parser.add_argument("--check-budget", type=int, metavar="N", help="forward passes for each input (default 256)")


def asked_changes(args: argparse.Namespace, size: tuple[int, int]) -> dict[str, str | float]:
    """The words of ``--check`` that are changes of patches, and what ``check_field`` calls them.

    Raises:
        ValueError: an option of the check is not allowed, for inputs of this size (H, W).
    """
    changes: dict[str, str | float] = {}
    for how in args.check:
        if how != RANDOMISATION:
            named: dict[str, str | float] = {OCCLUSION: "mean", "other": "other", "flip": "flip"}
            changes[how] = named[how] if how in named else _positive(how)
    for option in ("cells", "budget"):
        if getattr(args, f"check_{option}") is not None and not args.check:
            raise ValueError(f"--check-{option} is about --check; give that, too, such as --check occlusion.")
    budget = budget_of(args)
    cells = 1 if args.check_cells is None else args.check_cells
    if args.check and not 1 <= cells <= min(size):
        raise ValueError(f"--check-cells {cells}: give 1 to {min(size)} for inputs of {size[0]}x{size[1]}.")
    if args.check and cells**2 > budget:
        raise ValueError(f"--check-budget {budget}: {cells} x {cells} patches need at least {cells**2}.")
    return changes


def budget_of(args: argparse.Namespace) -> int:
    """The value of ``--check-budget``."""
    return 256 if args.check_budget is None else args.check_budget


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"--check {text}: give occlusion, other, a number above 0, flip, or randomisation.")
    return number


def check_models(
    args: argparse.Namespace,
    results: Mapping[str, ERFResult],
    load: Callable[[str], Loaded],
    size: tuple[int, int],
    folder: Path,
) -> tuple[dict[str, FieldCheck], list[dict[str, Any]]]:
    """Run the checks that the options ask for on the layers of all results; write tables and print what comes out.

    Args:
        args: the options of ``tools/erf.py``.
        results: label of the model -> its fields, whose layers are checked.
        load: gives the model of a label.
        size: (H, W) of the inputs.
        folder: where the files go.

    Returns:
        Label -> check, and the rows of the randomisation test.
    """
    changes = asked_changes(args, size)
    checks: dict[str, FieldCheck] = {}
    randomised: list[dict[str, Any]] = []
    for label, result in results.items():
        layers = list(dict.fromkeys(re.split(r"[\[#@]", name)[0] for name in result.layers))
        paths = {how: folder / f"{slug_of(f'{label}-{how}')}.check.npz" for how in changes}
        request = dict(fields=result.info["request"], layers=layers, cells=args.check_cells, budget=budget_of(args))
        request = json.loads(json.dumps(request))  # as a file has it
        found = _stored(paths, request, args.overwrite)
        if len(found) < len(changes) or RANDOMISATION in args.check:
            model, inputs, options = _prepared(args, load(label), result, layers, size)
        for how in [how for how in changes if how not in found]:
            settings = options | dict(budget=budget_of(args), calibrate=result.info["calibrate"])
            with progress_bar(f"{label}, changed patches, {how}", result.info["num_inputs"]) as show:
                check = check_field(model, inputs, layers, by=changes[how], progress=show, **settings)
            check.info |= dict(request=request, weights=result.info.get("weights"), images=args.images)
            check.save(paths[how])
            found[how] = check
        checks |= {label if len(changes) == 1 else f"{label}, {how}": found[how] for how in changes}
        for layer in layers if RANDOMISATION in args.check else []:
            print(f"{label}: randomising the layers before {layer}", file=sys.stderr)
            try:
                rows = randomise_field(model, inputs, layer, **options)
            except ValueError as error:  # such as a layer of several maps, beside which others have their rows
                print(f"{label}: warning: {error}", file=sys.stderr)
                continue
            randomised += [dict(model=label, layer=layer) | row for row in rows]
    _report(checks, randomised, folder, sys.stderr if args.json else sys.stdout)
    return checks, randomised


def _stored(paths: Mapping[str, Path], request: dict[str, Any], overwrite: bool) -> dict[str, FieldCheck]:
    """Those of the checks that are in their files, of this request; ``ValueError`` if one of another is to be kept."""
    found = {how: FieldCheck.load(path) for how, path in paths.items() if path.is_file()}
    for how in [how for how, check in found.items() if check.info.get("request") != request]:
        check_replaced(paths[how], overwrite)
        del found[how]
    return found


def _prepared(
    args: argparse.Namespace, loaded: Loaded, result: ERFResult, layers: list[str], size: tuple[int, int]
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """The model, the inputs of its fields, and the options of ``check_field`` that make its unit that of the fields."""
    images = inputs_for(args.images, loaded, size, args.num, args.seed, protocol_of(args).squashed)
    inputs = joined(islice(images, result.info["num_inputs"]))  # with --tolerance fewer than there are
    position, shape = result.info["position"], result.info["input_shape"]
    options = dict(
        cells=args.check_cells,
        position=position if isinstance(position, str) else [tuple(p) for p in position],
        protocol=None if args.protocol == "all" else args.protocol,
        channels=None if args.protocol else result.info["channels"],
        calls=result.info["calls"],
        grid=tuple(args.grid) if args.grid else None,
        layout=args.layout,
        time_steps=shape[0] if len(shape) == 4 else None,
        seed=args.seed,
        batch_size=args.batch_size or 8,
    )
    if loaded.config is not None:
        from ...openmmlab.runtime.tensor_forward import forward_for

        options["forward"] = forward_for(loaded.model, layers)
    return loaded.model.to(args.device), inputs, options


def _report(checks: Mapping[str, FieldCheck], randomised: list[dict[str, Any]], folder: Path, out: TextIO) -> None:
    """Write the tables and print the numbers."""
    if checks:
        write_csv(folder / "checks.csv", [{"model": label} | row for label, c in checks.items() for row in c.rows()])
        _print_checks(checks, out)
    if randomised:
        write_csv(folder / "randomised.csv", randomised)
        _print_randomised(randomised, out)


def _print_checks(checks: Mapping[str, FieldCheck], out: TextIO) -> None:
    for label, check in checks.items():
        print(f"{label}, measured changes", file=out)
        for layer in check.layers:
            numbers = check.numbers(layer)
            parts = [
                f"{title} {numbers[key]}"
                for key, title in (
                    ("rank", "rank of the field"), ("live_rank", "without surrogates"), ("predicted_rank", "of the prediction"),
                    ("common_mass", "common mass"), ("gain", "gain"), ("unchanged", "unchanged"),
                )
                if key in numbers
            ]  # fmt: skip
            print(f"  {layer}  {', '.join(parts)}", file=out)
        for line in check.warnings:
            print(f"{label}: warning: {line}", file=sys.stderr)


def _print_randomised(rows: Iterable[Mapping[str, Any]], out: TextIO) -> None:
    for row in rows:
        lowest = row["down_to"] or "the model's own parameters"  # such as the position embedding of timm's ViT
        where = f"{counted(row['randomised'], 'layer')} down to {lowest}" if row["randomised"] else "as it is"
        rank, common = (Number(row[key], row[f"{key}_error"]) for key in ("rank", "common_mass"))
        print(f"{row['model']}, {row['layer']}, {where}: rank {rank}, common mass {common}", file=out)
