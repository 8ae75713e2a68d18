"""What the benchmarks share: their options, and results that are saved after each step in a file replaced as a whole."""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from sterf_plugins.files import replacing

BROKEN = 3  # exit code of a benchmark whose process the GPU does not serve any more


def options(doc: str | None, repeats: int, threads: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--threads", type=int, default=threads or torch.get_num_threads(), help="CPU threads")
    p.add_argument("--repeats", type=int, default=repeats, help="of each timing (default: %(default)s)")
    p.add_argument("--tiny", action="store_true", help="everything small, to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file of the figures; what it has is not measured again")
    p.add_argument("--retry", action="store_true", help="measure again what failed; otherwise the file keeps its error")
    return p


def begin(p: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options, and set PyTorch up: the threads, float32 that means float32, and no GPU unless one is asked for."""
    args = p.parse_args()
    if min(args.threads, args.repeats) < 1:
        p.error(f"--threads is {args.threads} and --repeats {args.repeats}; both must be at least 1")
    check_device(p, args.device)
    if args.tiny:
        args.repeats = 1
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the tools that a benchmark starts, too
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the tools that a benchmark starts
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return args


def check_device(p: argparse.ArgumentParser, device: str) -> None:
    """End with one line where PyTorch has no GPU and one is asked for: each entry would be recorded as a failure."""
    if device == "cuda" and not torch.cuda.is_available():
        p.error("--device cuda: PyTorch finds no GPU here; give --device cpu")


def kept(p: argparse.ArgumentParser, args: argparse.Namespace) -> dict:
    """What the file of --out holds, to be shown; ends with one line where there is none."""
    if args.out is None or not args.out.is_file():
        p.error(f"--out is {args.out}; give the file of figures that are to be shown")
    return json.loads(args.out.read_text())


def versions(*packages: str) -> dict[str, str | None]:
    """Version of each package, ``None`` where it is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def facts(device: str, **others) -> dict:
    """What a figure depends on: hardware, versions, settings, date."""
    cuda = device == "cuda"
    record = dict(
        device=device,
        hardware=torch.cuda.get_device_name() if cuda else platform.machine(),
        **others,
        date=datetime.date.today().isoformat(),
        python=platform.python_version(),
        torch=torch.__version__,
        spikingjelly=importlib.metadata.version("spikingjelly"),
    )
    if cuda:
        record |= dict(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    return record


def attempted(function: Callable[[], dict]) -> dict:
    """The result of ``function()``, or ``dict(error=message)`` if it fails, so that other parts go on."""
    try:
        return function()
    except Exception as error:
        return dict(error=f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def failed(value: object) -> bool:
    """Whether a result, or a part of it, is a failure's message."""
    return isinstance(value, dict) and ("error" in value or any(failed(v) for v in value.values()))


def write(path: Path, values: dict) -> None:
    """Write values as JSON; the file is replaced as a whole."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n")


class Results:
    """Parts and their entries; what a file already has is kept, a failure, too, unless ``retry`` is set.

    A file of another device or of other settings or versions is refused: its figures would be taken for these ones'. Each
    fact but the date is compared, so a benchmark names what its entries depend on.
    """

    def __init__(self, path: Path | None, known: dict, retry: bool = False):
        self.path, self.retry = path, retry
        self.known = json.loads(json.dumps(known))  # as a file has them
        self.values = json.loads(path.read_text()) if path and path.is_file() else dict(self.known)
        for name, value in self.known.items():
            if name != "date" and self.values.get(name) != value:
                print(
                    f"{path} holds results with {name}={self.values.get(name)!r}, and this is {value!r}; give another --out.",
                    file=sys.stderr,
                )
                raise SystemExit(2)

    @classmethod
    def of(cls, args: argparse.Namespace, **others) -> "Results":
        """The results of a benchmark with the common options, and with ``others`` that its entries depend on."""
        settings = dict(threads=args.threads, repeats=args.repeats, tiny=args.tiny)
        return cls(args.out, facts(args.device, **settings, **others), args.retry)

    def has(self, *keys: str) -> bool:
        """Whether the file has an entry."""
        value = self.values
        for key in keys:
            value = value.get(key, {})
        return bool(value) and not (self.retry and failed(value))

    def save(self, value: dict, *keys: str) -> dict:
        """Save an entry under nested keys, print it, and return it."""
        parent = self.values
        for key in keys[:-1]:
            parent = parent.setdefault(key, {})
        parent[keys[-1]] = value
        print(f"{' / '.join(keys)}: {json.dumps(value)}", flush=True)
        if self.path:
            write(self.path, self.values)
        return value

    def once(self, function: Callable[[], dict], *keys: str) -> None:
        """Compute and save ``function()`` unless the file has it; a failure is kept as its message.

        Raises:
            SystemExit: with code ``BROKEN``; the GPU does nothing more for this process after an error of its own.
            ValueError: the part has the name of a setting.
        """
        if keys[0] in self.known:
            raise ValueError(f"a part is called {keys[0]!r}, as a setting is; call it otherwise.")
        if not self.has(*keys) and "CUDA error" in self.save(attempted(function), *keys).get("error", ""):
            raise SystemExit(BROKEN)
