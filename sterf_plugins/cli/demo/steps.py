"""The steps of a demo: commands that are printed, run, and not repeated where they ran to their end."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import replacing


def say(message: str) -> None:
    """Print a line, in bold on a terminal."""
    print(f"\033[1m{message}\033[0m" if sys.stdout.isatty() else message, flush=True)


@dataclass(frozen=True)
class Steps:
    """Runs the tools of a demo.

    Args:
        name: the demo's, for messages.
        root: the folder with tools/ and configs/, in which the commands run.
    """

    name: str
    root: Path

    def run(self, *command: str | Path) -> None:
        """Print and run a Python script with its arguments; end the demo if it fails."""
        shown = " ".join(
            str(c.relative_to(self.root)) if isinstance(c, Path) and c.is_relative_to(self.root) else str(c)
            for c in command
        )
        print(f"$ python {shown}", flush=True)
        result = subprocess.run([sys.executable, *map(str, command)], cwd=self.root)
        if result.returncode:
            sys.exit(
                f"{self.name}: this step failed with exit code {result.returncode}; run the same command again to go on"
            )

    def train(self, folder: Path, config: Path, options: Sequence[str] = (), data: str = "") -> None:
        """Run or resume one training, unless it ran to its end.

        Args:
            folder: where its files go.
            config: its config.
            options: values of ``--cfg-options``.
            data: what the data set was made with.

        Raises:
            ValueError: the folder is there, and is not of a training with these settings.
        """
        settings = json.dumps(
            dict(config=config.read_text(), options=list(options), **(dict(data=data) if data else {}))
        )
        settings_file, finished = folder / "settings.json", folder / "finished.json"
        if folder.exists() and not (settings_file.is_file() and settings_file.read_text() == settings):
            raise ValueError(
                f"{folder} exists and is not of this training with these settings; move it away, or give another --out."
            )
        if finished.is_file():
            print("done before")
            return
        folder.mkdir(parents=True, exist_ok=True)
        settings_file.write_text(settings)
        start = time.time()
        extra = ["--cfg-options", *options] if options else []
        self.run(self.root / "tools" / "train.py", config, "--work-dir", folder, "--resume", *extra)
        finished.write_text(json.dumps(dict(seconds=time.time() - start)))

    def once(self, marker: Path, of: Path, *command: str | Path) -> None:
        """Run a command, unless it ran to its end before with the same file.

        Args:
            marker: file that says so.
            of: the file that the command depends on, such as a checkpoint.
            command: script and arguments.
        """
        words = f"{of} {of.stat().st_mtime} {' '.join(map(str, command))}"
        if marker.is_file() and marker.read_text() == words:
            print("done before")
            return
        self.run(*command)
        with replacing(marker) as partial:
            partial.write_text(words)


def last_checkpoint(folder: Path) -> Path:
    """The final checkpoint of a training."""
    return Path((folder / "last_checkpoint").read_text().strip())
