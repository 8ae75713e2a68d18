"""All benchmarks in one go, most important first, in pieces that go on where the last one ended; needs no network.

    python benchmarks/gpu.py --out benchmarks/results/cuda --minutes 9       # again, until it ends with code 0
    python benchmarks/gpu.py --out work_dirs/tiny --device cpu --tiny        # tries every part, small, on a CPU

Each part is a script of this folder in a process of its own, so that an error of the GPU ends no other part. Its figures
are in FOLDER/PART.json, saved after each entry, what it printed in FOLDER/PART.log, and the state of all parts in
FOLDER/gpu.json. A piece ends after --minutes at the latest; the script that runs then is ended, and the next piece goes on
with its next entry. A part that fails is recorded with its error, and is run again if it is named in --parts. A part that
had a whole piece and saved nothing has failed, too. The exit code is 0 if nothing is left to do, else 1.

The parts need what `pip install "sterf-plugins[openmmlab,events,norse,examples,deploy]" snntorch` installs; where a package
is missing, its part or side alone is missing in the results. All data are made by the parts themselves.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from saved import BROKEN, check_device, failed, write

HERE = Path(__file__).resolve().parent
SPARE = 20  # seconds that a piece must have left for a part to be started


class Part(NamedTuple):
    """A script and its options on a GPU, besides --device and --out."""

    script: str
    options: tuple[str, ...] = ()


PARTS = {
    "correctness": Part("correctness"),
    "training_step": Part("training_step"),
    "levels_and_steps": Part("levels_and_steps"),
    "neurons": Part("neurons"),
    "detector": Part("detector"),
    "erf": Part("erf", ("--parts", "sdtv3", "spikformer", "hook")),
    "memopt": Part("memopt", ("--size", "224", "--batch", "32")),
    "deploy": Part("deploy", ("--batch", "64")),
    "spikformer_step": Part("spikformer_step", ("--batch", "32", "--repeats", "10")),
    "floor": Part("floor"),
    "stems": Part("stems"),
    "compiled": Part("compiled"),
    "layouts": Part("layouts"),
    "generalisation": Part("generalisation"),
    "tracking": Part("tracking", ("--parts", "forward", "step", "variants")),
    "energy": Part("energy"),
    "mixers": Part("mixers"),
}


def command(name: str, args: argparse.Namespace, retry: bool = False) -> list[str]:
    """The program that is a part, and its options; ``retry`` measures again what failed."""
    part = PARTS[name]
    options = ["--device", args.device, "--out", str(args.out / f"{name}.json")]
    if part.script in ("layouts", "mixers"):  # data and trainings, from which the next piece goes on
        options += ["--work", str(args.out / f"{name}_work")]
    options += ["--retry"] * retry
    return [str(HERE / f"{part.script}.py"), *options, *(["--tiny"] if args.tiny else part.options)]


def ended(process: subprocess.Popen, seconds: float) -> int | None:
    """Exit code of a process, or ``None`` if it had to be ended, with all that it started, after so many seconds."""
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:  # also after Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def entries(path: Path) -> dict:
    """The figures of a part so far."""
    return json.loads(path.read_text()) if path.is_file() else {}


def run(name: str, args: argparse.Namespace, deadline: float) -> dict:
    """Run a part until it or the piece ends; its state, seconds, and errors."""
    out, log = args.out / f"{name}.json", args.out / f"{name}.log"
    before, start, code = entries(out), time.monotonic(), BROKEN
    retry = bool(args.parts)
    with log.open("a") as stream:
        while code == BROKEN:  # the rest of its entries needs another process
            program = [sys.executable, *command(name, args, retry)]
            process = subprocess.Popen(program, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
            code, retry = ended(process, deadline - time.monotonic()), False
    found, seconds = entries(out), time.monotonic() - start
    if code is None:
        whole = seconds > 0.9 * 60 * args.minutes
        if whole and found == before:
            return dict(state="failed", seconds=seconds, error=f"no entry was saved in {seconds:.0f} seconds")
        return dict(state="interrupted", seconds=seconds)
    if code:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return dict(state="failed", seconds=seconds, error=f"exit code {code}: {last}")
    errors = messages(found)
    return dict(state="failed", seconds=seconds, errors=errors) if errors else dict(state="done", seconds=seconds)


def messages(values: dict, name: str = "") -> dict[str, str]:
    """Name of each failed entry -> its message."""
    found = {}
    for key, value in values.items():
        if failed(value):
            path = f"{name} / {key}".removeprefix(" / ")
            found |= {path: value["error"]} if "error" in value else messages(value, path)
    return found


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder of results; what it has is not measured again")
    p.add_argument("--minutes", type=float, default=9, help="of this piece at most (default: %(default)s)")
    p.add_argument("--parts", nargs="+", choices=PARTS, help="these alone, and again where they failed (default: all)")
    p.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="everything small, to see that it runs")
    args = p.parse_args()
    check_device(p, args.device)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    state = entries(args.out / "gpu.json")
    ready = ("done",) if args.parts else ("done", "failed")
    left = [name for name in args.parts or PARTS if state.get(name, {}).get("state") not in ready]
    while left and deadline - time.monotonic() > SPARE:
        name = left[0]
        spent = state.get(name, {}).get("seconds", 0.0)
        found = run(name, args, deadline)
        state[name] = found | dict(seconds=round(spent + found["seconds"], 1))
        write(args.out / "gpu.json", state)
        print(f"{name}: {json.dumps(state[name])}", flush=True)
        if found["state"] == "interrupted":
            break
        left.pop(0)
    if left:
        print(f"left: {', '.join(left)}; run the same command again", flush=True)
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
