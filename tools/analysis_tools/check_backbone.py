"""Which stock configs of mmdet and mmseg run with a backbone: a table of every family, beside the stock backbones.

    sterf check-backbone sdtv3_tiny_srb resnet18 --out work_dirs/backbones
    sterf check-backbone sdtv3_tiny_srb --configs "mmdet::solo*"

A family is a folder of configs in the installed packages. The smallest of its configs is taken, or the next ones if it
does not run with its stock backbone. Each is built without pretrained weights, and computes a loss, its gradients and a
prediction on small made-up images, with the stock backbone and with each NAME, in a process that is ended after a
time limit. The exit code is 1 if any NAME does not run where the stock backbone does.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatch
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from sterf_plugins.cli.begin import OptionParser, begin

if __name__ == "__main__":
    begin(openmmlab=True)

import torch
from mmengine.logging import MMLogger

from sterf_plugins.cli.console import run_tool
from sterf_plugins.cli.versions import versions
from sterf_plugins.files import check_new, replacing, settings_in
from sterf_plugins.openmmlab.backbones.timm_backbone import check_model_name
from sterf_plugins.openmmlab.configs.adapt import swap_backbone
from sterf_plugins.openmmlab.configs.reading import config_root, load_config
from sterf_plugins.openmmlab.configs.trial import TrialError, try_model

STOCK = "stock"
TRIES = 4  # configs of a family
PACKAGES = ("mmdet", "mmseg")
# What the name of a config says of its backbone's size, and how large that is beside ResNet-50.
SIZES = (
    (r"[-_]r(\d+)", None),
    (r"[-_](?:t|tiny|nano|s0|b0)(?![a-z0-9])", 20),
    (r"[-_](?:s|small|s\d+)(?![a-z0-9])", 30),
    (r"[-_](?:b|base|m)(?![a-z0-9])", 80),
    (r"[-_](?:l|large|x|xlarge|huge|h)(?![a-z0-9])", 120),
)

Result = dict[str, Any]  # status, reason, seconds


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help="backbone: any timm name; none checks the stock backbones")
    p.add_argument("--configs", metavar="GLOB", help="every config of that name, such as 'mmdet::solo*/*'")
    p.add_argument("--interface", default="auto", choices=["auto", "exact", "stock"], help="as in sterf train")
    p.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="for each process (default 120)")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time (default 1)")
    p.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and a table FILE.md after each result")
    p.add_argument("--resume", action="store_true", help="go on with FILE.json; what is in it is not run again")
    p.add_argument("--retry", action="store_true", help="with --resume, run again what was neither ok nor skipped")
    p.add_argument("--overwrite", action="store_true", help="replace the files of --out")
    return p.parse_args()


def size_of(path: Path) -> tuple[int, int, str]:
    """Sort key of configs: the backbone's size that the name tells, then the shortest name."""
    for pattern, size in SIZES:
        if found := re.search(pattern, path.stem):
            return size or int(found[1]), len(path.stem), path.stem
    return 70, len(path.stem), path.stem


def families() -> list[list[str]]:
    """The smallest configs of each folder of configs in mmdet and mmseg, the smallest first."""
    folders = [folder for package in PACKAGES for folder in sorted(config_root(package).iterdir())]
    found = [candidates(folder) for folder in folders if folder.name != "_base_"]
    return [[config_name(path) for path in configs] for configs in found if configs]


def candidates(folder: Path) -> list[Path]:
    """The configs of a folder that may stand for it: the smallest one, then the smallest of another size, and so on."""
    paths = sorted(folder.glob("*.py"), key=size_of)
    sizes = [size_of(path)[0] for path in paths]
    rounds = [sizes[:number].count(size) for number, size in enumerate(sizes)]
    return [path for _, path in sorted(zip(rounds, paths, strict=True), key=lambda pair: (pair[0], size_of(pair[1])))][
        :TRIES
    ]


def config_name(path: Path) -> str:
    """``package::folder/file.py`` of a config file of mmdet or mmseg."""
    *_, package, _, _, folder, file = path.parts
    return f"{package}::{folder}/{file}"


def matching(pattern: str) -> list[str]:
    """Every config of mmdet and mmseg whose name matches a pattern."""
    paths = [(package, path) for package in PACKAGES for path in config_root(package).rglob("*.py")]
    names = [f"{package}::{path.relative_to(config_root(package)).as_posix()}" for package, path in paths]
    found = sorted(name for name in names if fnmatch(name, pattern) and "_base_" not in name)
    if not found:
        raise ValueError(f"--configs {pattern}: no config has such a name; write it like 'mmdet::solo*/*_coco.py'.")
    return found


def examine(name: str, backbone: str, interface: str) -> tuple[str, str]:
    """Try a config with a backbone; returns "ok", "refused", "failed" or "skipped", and the reason."""
    config = load_config(name)
    model = config.get("model") or {}
    if "backbone" not in model and "backbone" not in (model.get("detector") or {}):
        return "skipped", "no model.backbone in the config"
    if backbone != STOCK:
        try:
            swap_backbone(config, backbone, interface)
        except ValueError as error:
            return "refused", str(error)
    try:
        reason = try_model(config)
    except TrialError as error:
        return "failed", str(error)
    return ("skipped", reason) if reason else ("ok", "")


def work(answer: Any, *job: str) -> None:
    """Examine one job in a process of its own and send the result; what other libraries print is left out."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        try:
            answer.send(examine(*job))
        except Exception as error:  # whatever a config or a model raises is what the table tells
            answer.send(("failed", f"{type(error).__name__}: {error}"))


def first_line(reason: str) -> str:
    """What fits into a table of a reason."""
    lines = reason.strip().splitlines()
    return textwrap.shorten(lines[0], 250, placeholder=" …") if lines else ""


def run_all(jobs: list[tuple[str, str]], args: argparse.Namespace) -> Iterator[tuple[str, str, Result]]:
    """Run each job (config, backbone) in a fork of this process; yields its results as they come."""
    context = multiprocessing.get_context("fork")
    waiting = deque(jobs)
    running: dict[Any, tuple] = {}  # by the end of the pipe that the result comes out of
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                job = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(sender, *job, args.interface))
                process.start()
                sender.close()
                running[receiver] = job, process, time.monotonic()
            ready = wait(list(running), timeout=0.1)
            for receiver, (job, process, start) in list(running.items()):
                seconds = time.monotonic() - start
                if receiver in ready:
                    try:
                        status, reason = receiver.recv()
                    except EOFError:
                        process.join()
                        status, reason = "failed", f"the process ended with exit code {process.exitcode}"
                elif seconds > args.limit:
                    status, reason = "timeout", f"longer than {args.limit:g} s"
                else:
                    continue
                del running[receiver]
                process.kill()
                process.join()
                receiver.close()
                yield *job, dict(status=status, seconds=round(seconds, 1), reason=first_line(reason))
    finally:
        for _, process, _ in running.values():
            process.kill()


class Table:
    """The results of configs (rows) with backbones (columns), and the file that they are kept in.

    Attributes:
        interface: how backbones are adapted, as of ``--interface``.
        results: status, reason and seconds of each backbone, by config.
        configs: the configs that the table is of; results of others, which were tried in a family, are kept too.
    """

    def __init__(self, out: Path | None, resume: bool, overwrite: bool, interface: str = "auto"):
        self.interface = interface
        self.out = out.with_suffix("") if out and out.suffix in (".json", ".md") else out
        self.results: dict[str, dict[str, Result]] = {}
        self.configs: list[str] = []
        if self.out and resume and self.file(".json").is_file():
            self.results = self._earlier()
        elif self.out:
            check_new(self.file(".json"), overwrite)

    def _earlier(self) -> dict[str, dict[str, Result]]:
        """The results in the file; ``ValueError`` if it is of something else, or they are of another interface."""
        path = self.file(".json")
        record = settings_in(path) or {}
        if "results" not in record:
            raise ValueError(f"--resume: {path} has no results of this tool; give another --out.")
        interface = record.get("interface", self.interface)
        if interface != self.interface:
            raise ValueError(
                f"--resume: {path} has the results of --interface {interface}, and --interface is {self.interface}; give the "
                f"same one, or another --out."
            )
        return record["results"]

    def file(self, suffix: str) -> Path:
        """The file of a suffix."""
        assert self.out is not None
        return self.out.with_name(self.out.name + suffix)

    def status(self, config: str, name: str) -> str:
        """The status of a config with a backbone; empty if it has not been tried."""
        return self.results.get(config, {}).get(name, {}).get("status", "")

    def summary(self, name: str) -> str:
        """One line on a backbone."""
        counts = Counter(status for config in self.configs if (status := self.status(config, name)))
        line = f"{name}: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())
        if name == STOCK:
            return line
        running = [c for c in self.configs if self.status(c, name) and self.status(c, STOCK) == "ok"]
        return f"{line}; {len(running) - len(self.lacking(name))} of {len(running)} whose stock config runs"

    def lacking(self, name: str) -> list[str]:
        """Configs that run with their stock backbone but not with this one."""
        return [c for c in self.configs if self.status(c, STOCK) == "ok" and self.status(c, name) not in ("ok", "")]

    def markdown(self) -> str:
        """The table, and below it why something is not ok."""
        rows = {config: self.results.get(config, {}) for config in self.configs}
        names = [STOCK, *sorted({name for row in rows.values() for name in row} - {STOCK})]
        lines = [f"* {self.summary(name)}" for name in names]
        lines += ["", f"| config | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {config} | {' | '.join(self.status(config, name) for name in names)} |" for config in rows]
        lines += ["", "What is not ok:", ""]
        for config, row in rows.items():
            reasons = {name: row[name]["reason"] for name in names if name in row and row[name]["reason"]}
            for reason in dict.fromkeys(reasons.values()):
                lines.append(f"* {config}, {', '.join(n for n in reasons if reasons[n] == reason)}: {reason}")
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write both files, if they have a name."""
        if not self.out:
            return
        installed = versions()
        used = [installed[module] for module in ("torch", "mmcv", "mmdet", "mmseg", "timm")]
        record: dict[str, Any] = dict(date=str(date.today()), versions=used, interface=self.interface)
        record |= dict(configs=self.configs, results=self.results)
        heading = f"Measured on {record['date']} with {', '.join(used)}.\n\n"
        for suffix, text in ((".json", json.dumps(record, indent=1)), (".md", heading + self.markdown())):
            with replacing(self.file(suffix)) as partial:
                partial.write_text(text, encoding="utf-8")


def fill(table: Table, configs: list[str], names: Sequence[str], args: argparse.Namespace) -> None:
    """Run what the table lacks of these configs and backbones, and tell of each result as it comes."""
    done = ("ok", "skipped") if args.retry else ("ok", "skipped", "refused", "failed", "timeout")
    jobs = [(config, name) for config in configs for name in names if table.status(config, name) not in done]
    for number, (config, name, result) in enumerate(run_all(jobs, args), 1):
        table.results.setdefault(config, {})[name] = result
        print(f"[{number}/{len(jobs)}] {config} {name}:", *(v for v in result.values() if v != ""), flush=True)
        table.write()


def choose(table: Table, found: list[list[str]], args: argparse.Namespace) -> list[str]:
    """Of each family the first config that runs with its stock backbone, or its first one if none does."""

    def running(configs: list[str]) -> Iterator[str]:
        return (config for config in configs if table.status(config, STOCK) == "ok")

    for number in range(TRIES):
        fill(table, [f[number] for f in found if len(f) > number and not any(running(f))], [STOCK], args)
    return [next(running(configs), configs[0]) for configs in found]


def main() -> None:
    args = parse_args()
    if args.jobs < 1 or args.limit <= 0:
        raise ValueError(f"--jobs {args.jobs}, --limit {args.limit:g}: both must be positive.")
    if args.resume and not args.out:
        raise ValueError("--resume needs --out FILE, whose results it goes on with.")
    for name in args.names:
        check_model_name(name)
    MMLogger.get_current_instance().setLevel("ERROR")  # the table says what goes wrong
    table = Table(args.out, args.resume, args.overwrite, args.interface)
    names = (STOCK, *args.names)
    table.configs = matching(args.configs) if args.configs else choose(table, families(), args)
    fill(table, table.configs, names, args)
    table.write()
    for name in names:
        print(table.summary(name))
    if any(table.lacking(name) for name in names):
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main, again="the same command and --resume")
