"""The steps of a demo: commands that are printed, run, and not repeated where they ran to their end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        threads: number of threads of each command, unless ``OMP_NUM_THREADS`` is set; the default leaves it to PyTorch.
    """

    name: str
    root: Path
    threads: int | None = None

    def run(self, *command: str | Path) -> None:
        """Print and run a Python script with its arguments; end the demo if it fails."""
        self._print(command)
        result = subprocess.run(_python(command), cwd=self.root, env=self._environment())
        if result.returncode:
            sys.exit(
                f"{self.name}: this step failed with exit code {result.returncode}; run the same command again to go on"
            )

    @contextmanager
    def beside(self, output: Path, *command: str | Path) -> Iterator[None]:
        """Print and run a Python script in the background while the block's steps run, then wait for it.

        It is interrupted if the block does not run to its end. If it fails, the demo ends after the block.

        Args:
            output: file that takes what the script prints.
            command: script and arguments.
        """
        self._print([*command, "&>", output, "&"])
        with open(output, "w") as file:
            script = subprocess.Popen(
                _python(command), cwd=self.root, env=self._environment(), stdout=file, stderr=subprocess.STDOUT
            )
        try:
            yield
            code = script.wait()
        finally:
            if script.poll() is None:
                script.send_signal(signal.SIGINT)
                script.wait()
        if code:
            sys.exit(
                f"{self.name}: the step in the background failed with exit code {code}; {output} says why. "
                "Run the same command again to go on"
            )

    def _environment(self) -> dict[str, str]:
        return dict(dict(OMP_NUM_THREADS=str(self.threads)) if self.threads else {}, **os.environ)

    def _print(self, command: Sequence[str | Path]) -> None:
        """Print a command as one would type it in the root folder."""
        words = (
            c.relative_to(self.root) if isinstance(c, Path) and c.is_relative_to(self.root) else c for c in command
        )
        print(f"$ python {' '.join(map(str, words))}", flush=True)

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


def _python(command: Sequence[str | Path]) -> list[str]:
    return [sys.executable, *map(str, command)]


def last_checkpoint(folder: Path) -> Path:
    """The final checkpoint of a training."""
    return Path((folder / "last_checkpoint").read_text().strip())
