"""The first lines of a tool: a quiet console, and one line where Ctrl-C or a missing package ends it during its imports.

PyTorch and OpenMMLab take seconds to import, so this module imports neither. What it leaves out of standard output and of
the warnings is named below, and nothing else is left out. Records of a training's log are in its log file all the same.
"""

import argparse
import gc
import multiprocessing
import os
import re
import select
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any, NoReturn, TextIO

from .own_tools import tool_name

# Beginnings of prints and log records of other libraries that a user can do nothing about, as regular expressions.
LINES = (
    "Could not import OneDL",  # mmdet and mmseg, on import
    "-+\nSystem environment:",  # mmengine, 40 lines; the banner names the device
    "Config:\n",  # mmengine, hundreds of lines; the work dir has the file
    "Hooks will be executed in the following order:",  # mmengine, a hundred lines
    "Distributed training is not used, all SyncBatchNorm",  # mmengine; a SyncBN of the config is in the banner
    '"FileClient" will be deprecated',  # mmengine, of its own hooks
    '"HardDiskBackend" is the alias',
    "Loads checkpoint by ",  # mmengine, which says it again
    "The prefix is not set in metric class",  # mmengine, of mmseg's metrics
    "paramwise_options -- ",  # mmengine and mmseg, several lines for each parameter
    "Param groups = {",  # mmdet and mmseg, likewise
    r"loading annotations into memory\.\.\.",  # pycocotools, for each data set and metric
    r"Done \(t=[\d.]+s\)\Z",
    r"creating index\.\.\.",
    "index created!",
    r"Loading and preparing results\.\.\.",
    r"DONE \(t=[\d.]+s\)\Z",
)
# The same of warnings.
WARNINGS = (
    ".*pkg_resources",
    "Multi-processing start method `fork` is different",  # mmengine, which sets its own, with Python 3.14
    ".*invalid escape sequence",  # mmdet, where Python 3.12 or later compiles it
    "faster_coco_eval is not installed",  # mmdet, on import; a config whose metric needs it is refused
    "Default ``avg_non_ignore``",  # mmseg's cross entropy
    r"Warning: The \w+ is out of bounds",  # mmengine's visualizer, of a box that reaches beyond the image
    "The draw is False",  # mmseg's visualisation hook, as its configs set it
    "`reduce_zero_label` will be deprecated",  # mmseg's loading transform, as its configs set it
    "torch.meshgrid",  # mmdet's anchor generators
    r"`?torch\.cuda\.amp\.",  # mmengine's mixed precision
    r"torch\.utils\.checkpoint: the use_reentrant",  # mmcv-style checkpointing
    "The given buffer is not writable",  # torch.export, of the file that it reads again
    ".*LeafSpec",  # torch.onnx, which copies its own trees
)
# What mmengine puts in front of a record on the console; the name of the level is coloured on a terminal.
_PREFIX = r"(?:[\d/]+ [\d:]+ - \S+ - \S*(?:INFO|WARNING)\S* - )?\n?"
_LEFT_OUT = re.compile(_PREFIX + "(?:" + "|".join(LINES) + ")")


class OptionParser(argparse.ArgumentParser):
    """A parser of a command line that prints its description as it is written, and ends a wrong one in one line."""

    def __init__(self, **kwargs: Any):
        options: dict[str, Any] = dict(prog=tool_name(), formatter_class=argparse.RawDescriptionHelpFormatter)
        super().__init__(**(options | kwargs))

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, without the list of all options, which is many lines."""
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` tells all options\n")


class _Quiet:
    """A stream that leaves out what ``LINES`` names; everything else goes to the stream behind it."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._line_is_left_out = False

    def write(self, text: str) -> int:
        """Write the text, unless it begins as one of ``LINES``, or is the line break that ``print`` writes after it."""
        break_only = self._line_is_left_out and text == "\n"
        self._line_is_left_out = bool(_LEFT_OUT.match(text)) and not text.endswith("\n")
        if break_only or _LEFT_OUT.match(text):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def begin(openmmlab: bool = False) -> None:
    """Begin a tool, before its other imports.

    Args:
        openmmlab: the tool needs mmengine, mmdet and mmseg: ``sterf_plugins.setup()``.
    """
    end_at_once()
    let_threads_sleep()
    if not isinstance(sys.stdout, _Quiet):
        sys.stdout = _Quiet(sys.stdout)  # type: ignore[assignment]
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    if openmmlab:
        import sterf_plugins

        gc.disable()  # to look for garbage among what is imported, of which none is, takes an eighth of the time
        try:
            sterf_plugins.setup()
        except ImportError as error:
            if error.name:  # something is broken, rather than left out of an installation
                raise
            print(f"{tool_name()}: error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        finally:
            gc.enable()


def end_at_once() -> None:
    """Let Ctrl-C end the process with one line: nothing is lost before a tool's work begins."""
    signal.signal(signal.SIGINT, _end)


def end_with_parent() -> None:
    """Let this worker process end when the one that started it has ended: it would wait for work of a killed one for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def let_threads_sleep() -> None:
    """Let threads that wait for others sleep soon, unless the environment says how they wait; call it before PyTorch is imported.

    GNU OpenMP, which PyTorch's wheels for Linux bring, lets them spin 300,000 times first. Beside other jobs the spinning
    takes the cores from the thread that is waited for: on two cores that were shared with four other jobs, an iteration
    of a training took 26 s, and 2.1 s with this value; on idle cores 0.29 s and 0.31 s.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def output_is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as behind ``| head``."""
    waiting = select.poll()
    waiting.register(1, 0)
    return any(event & select.POLLERR for _, event in waiting.poll(0))


def end_unread() -> NoReturn:
    """End without a word, since nobody reads the output any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # which takes what Python writes at its end
    raise SystemExit(141)  # as the shell says of a program that SIGPIPE has ended


def _end(number: int, frame: FrameType | None) -> None:
    if multiprocessing.parent_process() is None:
        os.write(2, f"\n{tool_name()}: interrupted\n".encode())
    os._exit(130)
