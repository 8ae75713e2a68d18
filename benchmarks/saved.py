"""Results that are saved after each step: a JSON file that is replaced as a whole."""

import datetime
import gc
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from sterf_plugins.files import replacing


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
    """Parts and their entries; what a file already has is kept, what failed is done again.

    A file of another device or of other settings is refused: its figures would be taken for this device's.
    """

    # Facts that must be equal for results to share a file.
    SAME = ("device", "hardware", "torch", "tiny", "epochs", "repeats", "digits")

    def __init__(self, path: Path, known: dict):
        self.path = path
        self.values = json.loads(path.read_text()) if path.is_file() else dict(known)
        for name in self.SAME:
            if self.values.get(name) != known.get(name):
                print(
                    f"{path} holds results with {name}={self.values.get(name)!r}, and this is {known.get(name)!r}; "
                    f"give another --out.",
                    file=sys.stderr,
                )
                raise SystemExit(2)

    def has(self, *keys: str) -> bool:
        """Whether the file has an entry that is not a failure."""
        value = self.values
        for key in keys:
            value = value.get(key, {})
        return bool(value) and not failed(value)

    def save(self, value: dict, *keys: str) -> dict:
        """Save an entry under nested keys, print it, and return it."""
        parent = self.values
        for key in keys[:-1]:
            parent = parent.setdefault(key, {})
        parent[keys[-1]] = value
        print(f"{' / '.join(keys)}: {json.dumps(value)}", flush=True)
        write(self.path, self.values)
        return value

    def once(self, function: Callable[[], dict], *keys: str) -> None:
        """Compute and save ``function()`` unless the file has it; a failure is kept as its message."""
        if not self.has(*keys):
            self.save(attempted(function), *keys)
