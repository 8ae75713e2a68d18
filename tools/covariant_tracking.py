"""Reproduce the covariant paper's experiment: follow moving shapes, with covariant or random receptive fields.

    sterf covariant-tracking                      # CPU size: makes the data, 8 networks x 5 seeds, a table
    sterf covariant-tracking --nets li relu --seeds 2
    sterf covariant-tracking --size events300     # the paper's size, for a GPU

Each network is trained by tools/train.py with its config in configs/covariant/tracking. Runs that are complete are not
repeated, an interrupted one is resumed, so that the same command goes on where it stopped. Results of all seeds:

    WORK_DIR/results.json  WORK_DIR/results.md  WORK_DIR/results.png
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from sterf_plugins.cli import console
from sterf_plugins.erf.figures.sheet import SMALL, Sheet, logarithmic, write
from sterf_plugins.files import check_claim, claim, replacing

ROOT = Path(__file__).resolve().parents[1]
NETS = {"li": "leaky integrators", "lif": "LIF neurons", "relu8": "ReLU, 8 frames", "relu": "ReLU, single frame"}
INITS = ("rf", "uniform")
DATA = {  # arguments of make_events.py
    "events48": "--single --shapes circle square --videos 126 --frames 33 --size 8 16 --velocity 0.2",
    "events300": "--videos 500 --frames 128 --resolution 300 300 --size 10 20 40 80 --velocity 0.2",
}


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("--size", default="events48", choices=list(DATA), help="(default: %(default)s)")
    p.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS), help="(default: all)")
    p.add_argument("--inits", nargs="+", default=list(INITS), choices=INITS, help="(default: both)")
    p.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    p.add_argument("--data", type=Path, help="folder of the event videos (default: data/SIZE; made if missing)")
    p.add_argument("--work-dir", type=Path, help="(default: work_dirs/tracking_SIZE)")
    p.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with its share of the cores")
    p.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="for every config, such as train_cfg.max_epochs=5",
    )
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if min(args.seeds, args.jobs) < 1:
        raise ValueError(f"--seeds is {args.seeds} and --jobs {args.jobs}; both must be at least 1.")
    data = args.data or Path("data") / args.size
    work_dir = args.work_dir or Path("work_dirs") / f"tracking_{args.size}"
    console.check_writable(work_dir, "--work-dir")
    check_claim(work_dir, "covariant_tracking", ("results.json", "results.md", "results.png"))
    claim(work_dir, "covariant_tracking")
    if args.data is None:
        _run_tool("tools/dataset_tools/make_events.py", str(data), *DATA[args.size].split())
    runs = [(net, init, seed) for seed in range(args.seeds) for net in args.nets for init in args.inits]
    errors: dict[tuple[str, str, int], float] = {}
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(runs), unit="run", disable=None) as bar:
        waiting = {pool.submit(train, args, run, data, work_dir): run for run in runs}
        try:
            for done in as_completed(waiting):
                errors[waiting[done]] = done.result()
                bar.set_description("-".join(map(str, waiting[done])))
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    results = {
        f"{net}-{init}": [errors[net, init, seed] for seed in range(args.seeds)]
        for net in args.nets
        for init in args.inits
    }
    report(results, work_dir, args)


def train(args: argparse.Namespace, run: tuple[str, str, int], data: Path, work_dir: Path) -> float:
    """Run one training unless it is complete.

    Args:
        args: the command line.
        run: network, initialisation and seed.
        data: folder of the event videos.
        work_dir: folder of all trainings.

    Returns:
        The mean distance in pixels at the last validation.

    Raises:
        ValueError: the training failed, or a complete one had other options or data.
    """
    net, init, seed = run
    folder = work_dir / f"{net}-{init}" / f"seed{seed}"
    config = ROOT / f"configs/covariant/tracking/track_{net}-{init}_{args.size}.py"
    done = folder / "done.json"
    settings = dict(options=args.cfg_options, data=str(data))
    if done.is_file():
        recorded = json.loads(done.read_text())
        if {k: recorded.get(k) for k in settings} != settings:
            raise ValueError(f"{folder} was trained with other options or data; give another --work-dir.")
        return recorded["position_error"]
    options = [f"randomness.seed={seed}"]
    options += [f"{loader}_dataloader.dataset.data_root={data}" for loader in ("train", "val", "test")]
    _run_tool(
        "tools/train.py",
        str(config),
        "--work-dir",
        str(folder),
        "--resume",
        "--cfg-options",
        *options,
        *args.cfg_options,
        log=folder / "train.log",
        threads=max(1, torch.get_num_threads() // args.jobs),
    )
    error = last_error(folder)
    with replacing(done) as partial:
        partial.write_text(json.dumps(dict(settings, position_error=error)))
    return error


def _run_tool(script: str, *arguments: str, log: Path | None = None, threads: int | None = None) -> None:
    """Run one of our tools; with ``log`` its output goes there, with ``threads`` it uses so many.

    Raises:
        ValueError: the tool failed; the message ends with its error message if that is in the log.
    """
    command = [sys.executable, str(ROOT / script), *arguments]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads)) if threads else None
    if log is None:
        code = subprocess.run(command, env=environment).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code == 130 or code < 0:
        raise KeyboardInterrupt
    if code:
        lines = log.read_text(errors="replace").splitlines() if log else []
        last = [line for line in lines if ": error:" in line][-1:]
        raise ValueError(f"{script} ended with code {code}; see {log or script}. {''.join(last)}")


def last_error(folder: Path) -> float:
    """Mean distance in pixels at the last validation, read from the logs of a training.

    Raises:
        ValueError: there is no validation in the logs.
    """
    errors = []
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            errors += [entry["position_error"] for entry in [json.loads(line)] if "position_error" in entry]
    if not errors:
        raise ValueError(f"{folder} has no validation in its logs; delete it and run again.")
    return errors[-1]


def draw_errors(results: dict[str, list[float]], size: str) -> Figure:
    """A box for each network and start, a point for each seed."""
    seeds = max(map(len, results.values()))
    notes = [
        f"Up: mean distance between true and found positions in pixels, {size}. Points: {seeds} seeds; line: median; box: the "
        "middle half of the seeds; whiskers: lowest and highest. rf: fields at the start are covariant, uniform: random."
    ]
    sheet = Sheet({"": 1}, notes, 0.4, 0, 1, bar=False, ticks=0.4, panel=7.6)
    (axes,) = sheet.panels[""]
    names = [f"{NETS[net]}\n{start}".replace(", ", ",\n") for net, start in (name.split("-") for name in results)]
    errors = list(results.values())
    style = dict(color="black", linewidth=2)
    axes.boxplot(errors, tick_labels=names, widths=0.5, whis=(0, 100), showfliers=False, medianprops=style)
    for k, of_seeds in enumerate(errors, 1):
        axes.plot([k] * len(of_seeds), of_seeds, "o", color="#0072B2", markersize=4, alpha=0.7)
    logarithmic(axes.yaxis)
    axes.set_ylim(min(map(min, errors)) / 1.6, max(map(max, errors)) * 1.6)
    axes.grid(axis="y", alpha=0.25, linewidth=0.5)
    axes.tick_params(labelsize=SMALL)
    return sheet.figure


def report(results: dict[str, list[float]], work_dir: Path, args: argparse.Namespace) -> None:
    """Write the table, the numbers and the picture of all errors (run -> error of each seed), and print the table."""
    lines = ["| network | start | median | all seeds |", "|---|---|---|---|"]
    for name, errors in results.items():
        net, init = name.split("-")
        lines.append(
            f"| {NETS[net]} | {init} | {statistics.median(errors):.3f} | {', '.join(f'{e:.3f}' for e in errors)} |"
        )
    table = "\n".join(lines)
    print(f"mean distance in pixels, {args.size}, {args.seeds} seed(s)\n{table}")
    document = dict(size=args.size, options=args.cfg_options, torch=torch.__version__, position_error=results)
    with replacing(work_dir / "results.json") as partial:
        partial.write_text(json.dumps(document, indent=1))
    with replacing(work_dir / "results.md") as partial:
        partial.write_text(table + "\n")
    write(draw_errors(results, args.size), work_dir / "results.png")
    print(f"{work_dir}/results.json, results.md, results.png")


if __name__ == "__main__":
    console.run_tool(main)
