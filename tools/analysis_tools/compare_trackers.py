"""Compare trackers by their result folders: a table, and success and precision plots.

    sterf compare-trackers SDTrack=work_dirs/results OSTrack=downloads/ostrack \\
        --data data/FE108 --layout fe108 --out work_dirs/compared

A result folder has a file NAME.txt for each test sequence with a line x, y, w, h for each image, between commas, tabs or spaces,
as sterf test and the official toolkits write them. Of the data set only the labels are read, and absent_label.txt beside them, as
VisEvent has it. Numbers are in per cent, under the protocol of the MATLAB toolkit behind the published numbers ("toolkit"), which
counts no image without the object as a hit, and under OSTrack's ("ostrack").

    OUT/table.md  OUT/numbers.json  OUT/curves_toolkit.png  OUT/curves_ostrack.png
"""

import argparse
import json
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

from sterf_plugins.cli import console
from sterf_plugins.erf.figures.sheet import write
from sterf_plugins.files import check_claim, claim, replacing
from sterf_plugins.tracking.box_metrics import PROTOCOLS, Curves, mean_curves
from sterf_plugins.tracking.charts import draw_curves
from sterf_plugins.tracking.results import evaluate, read_absences, read_attributes, read_labels
from sterf_plugins.tracking.sequences import LAYOUTS, SPLITS


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("results", nargs="+", metavar="[NAME=]DIR", help="result folders (default of NAME: the folder's)")
    p.add_argument("--data", type=Path, required=True, help="the data set's folder, with train/ and test/")
    p.add_argument("--layout", choices=list(LAYOUTS), required=True, help="whose folders these are")
    p.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    p.add_argument("--names", type=Path, metavar="FILE", help="sequences that count, one a line (default: all)")
    p.add_argument("--protocol", choices=PROTOCOLS, nargs="+", default=PROTOCOLS, help="(default: both)")
    p.add_argument("--per-sequence", action="store_true", help="AUC and PR of each sequence, too")
    p.add_argument("--attributes", type=Path, metavar="FILE", help='AUC and PR by attribute; lines "NAME ATTRIBUTE …"')
    p.add_argument("--out", type=Path, default=Path("work_dirs/compare_trackers"), help="default: %(default)s")
    p.add_argument("--overwrite", action="store_true", help="replace files in OUT that this tool did not write")
    return p.parse_args()


def folders(specs: list[str]) -> dict[str, Path]:
    """Name of each tracker -> its result folder."""
    found: dict[str, Path] = {}
    for spec in specs:
        name, _, path = ("", "", spec) if "=" not in spec or Path(spec).is_dir() else spec.partition("=")
        name = name or Path(path).resolve().name
        if name in found:
            raise ValueError(f"two trackers are called {name!r}; name them: NAME=DIR.")
        found[name] = Path(path)
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned."""
    lines = [head, ["-" * max(3, len(h)) for h in head], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def by_group(trackers: dict[str, dict[str, Curves]], groups: dict[str, list[str]], what: str, protocol: str) -> str:
    """A table of AUC / PR with a row for each group of sequences, and a column for each tracker."""
    rows = []
    for group, names in groups.items():
        numbers = [mean_curves([found[name] for name in names], protocol).numbers() for found in trackers.values()]
        rows.append([group, str(len(names)), *(f"{n['AUC']:.1f} / {n['PR']:.1f}" for n in numbers)])
    return table([what, "sequences", *(f"{name}, AUC / PR" for name in trackers)], rows)


def main() -> None:
    args = parse_args()
    trackers = folders(args.results)
    labels = read_labels(args.data, args.layout, args.split, args.names)
    absences = read_absences(args.data, args.split, labels)
    groups = {} if args.attributes is None else read_attributes(args.attributes, labels)
    pictures = {protocol: args.out / f"curves_{protocol}.png" for protocol in dict.fromkeys(args.protocol)}
    check_claim(
        args.out, "compare_trackers", ("table.md", "numbers.json", *(p.name for p in pictures.values())), args.overwrite
    )
    parts, numbers, figures = [], {}, {}
    for protocol, picture in pictures.items():
        found = {name: evaluate(folder, labels, protocol, absences) for name, folder in trackers.items()}
        means = {name: mean_curves(one.values(), protocol) for name, one in found.items()}
        numbers[protocol] = {name: mean.numbers() for name, mean in means.items()}
        title = f"{len(labels)} sequences, {sum(map(len, labels.values()))} images, protocol {protocol}"
        figures[picture] = draw_curves(means, title)
        keys = list(next(iter(numbers[protocol].values())))
        rows = [[name, *(f"{n[key]:.2f}" for key in keys)] for name, n in numbers[protocol].items()]
        parts += [f"{title}:", table(["tracker", *keys], rows)]
        if groups:
            parts.append(by_group(found, groups, "attribute", protocol))
        if args.per_sequence:
            parts.append(by_group(found, {name: [name] for name in labels}, "sequence", protocol))
    text = "\n\n".join(parts) + "\n"
    claim(args.out, "compare_trackers")
    for picture, figure in figures.items():
        write(figure, picture)
    for name, content in (("table.md", text), ("numbers.json", json.dumps(numbers, indent=1))):
        with replacing(args.out / name) as partial:
            partial.write_text(content)
    print(f"{text}\n{args.out}: table.md, numbers.json, {', '.join(p.name for p in pictures.values())}")


if __name__ == "__main__":
    console.run_tool(main)
