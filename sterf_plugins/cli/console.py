"""How command-line tools end: errors in one line, interruptions without a lost or broken file."""

import argparse
import difflib
import errno
import inspect
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError

import torch

from .begin import end_unread, output_is_unread
from .own_tools import tool_name

# Environment variable; if it is set, errors that the user can mend have their traceback too.
TRACEBACK = "STERF_TRACEBACK"
# PyTorch's own; if it is set, `torch.load` runs no code, whichever library calls it.
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
HINT = (
    "This is an error in the code, not a mistake in the command that is known: please report it with all lines above. "
    "If code of yours (a plugin, a config, a factory) is among them, look there first."
)
# A disk, a quota or a file's limit is full, or the disk is read-only.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PACKAGE = Path(__file__).resolve().parents[1]
# Functions of other libraries whose `raise` statements speak of the user's input: an unknown name in a config, an option
# that cannot be merged into it, classes that a data set does not have, one image of one
# pixel for a BatchNorm, a timm name without such weights.
SPEAK_TO_THE_USER = (
    ("mmengine/registry/build_functions.py", "build_from_cfg"),
    ("mmengine/config/config.py", "_merge_a_into_b"),
    ("mmengine/config/config.py", "fromfile"),
    ("mmseg/datasets/basesegdataset.py", "get_label_map"),
    ("mmseg/datasets/basesegdataset.py", "_update_palette"),
    ("torch/nn/functional.py", "_verify_batch_size"),
    ("timm/models/_builder.py", "load_pretrained"),
    ("timm/models/_factory.py", "parse_model_name"),
    ("timm/models/_factory.py", "create_model"),
    ("timm/models/_factory.py", "_resolve_model_source"),
)
# What libraries say, in a RuntimeError or an assertion, of an optional package that is missing.
MISSING = re.compile(r"(pip|mim|conda) install |not installed", re.IGNORECASE)
# What timm's models say, by `torch._assert`, of images whose size they do not take, and of feature maps that they lack.
SIZE = re.compile(r"height|width|image size|spatial dims|out of range", re.IGNORECASE)


def check_writable(folder: Path, option: str) -> None:
    """Make the folder, and check that files can be written into it.

    Args:
        folder: the folder, which need not exist.
        option: command-line option that names it, for the message.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{option} {folder} cannot be written ({error.strerror}); give a folder where you may write."
        ) from error


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """Raise ``ValueError`` unless the numbers of these options, as far as they are given, are at least 1."""
    for name in names:
        value = getattr(args, name)
        numbers = value if isinstance(value, list) else [value]
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(f"--{name.replace('_', '-')} is {' '.join(map(str, numbers))}; it must be at least 1.")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``; ``check_device`` says whether it can be used."""
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default: %(default)s)",
    )


def check_device(name: str) -> None:
    """Raise ``ValueError`` unless tensors can be put on the device (cpu, cuda or cuda:N)."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} cannot be used: {str(error).splitlines()[0]} Give cpu, cuda or cuda:N."
        ) from error


def run_tool(main: Callable[[], None], again: str = "the same command") -> None:
    """Run a tool: mistakes of the user become one line and exit code 2, Ctrl-C becomes exit code 130.

    Other errors keep their traceback, with a hint at its end. While the tool runs, in it and in processes that it
    starts, no library runs code from a checkpoint.

    Args:
        main: the tool's main function.
        again: what to run to go on after an interruption, for the message.
    """
    loading = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    previous, hook = signal.signal(signal.SIGINT, _interrupt), sys.unraisablehook

    def unraisable(lost: Any) -> None:
        """Send Ctrl-C again that came in a finalizer or a callback of a weak reference, whose exceptions Python drops."""
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _send_again(signal.SIGINT)
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        with warnings.catch_warnings():
            main()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and output_is_unread():
            end_unread()
        sys.stdout.flush()  # what was printed before the error stands before it in a file, too
        code = _told(error, main, again)
        if code is None:
            raise
        raise SystemExit(code) from None
    finally:
        signal.signal(signal.SIGINT, previous)
        sys.unraisablehook = hook
        os.environ.pop(WEIGHTS_ONLY)
        if loading is not None:
            os.environ[WEIGHTS_ONLY] = loading


def _told(error: BaseException, main: Callable[[], None], again: str) -> int | None:
    """Tell of an error in one line, and return the exit code; ``None`` if its traceback is what to tell."""
    name = tool_name()
    if _interrupted(error):
        traceback.clear_frames(error.__traceback__)  # ends progress bars, so that the message is the last line
        print(f"\n{name}: interrupted; go on with {again}", file=sys.stderr)
        return 130
    if isinstance(error, FloatingPointError):
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    setting = wrong_setting(error)
    if setting is None and not is_mistake(error, main):
        error.add_note(HINT)
        return None
    if os.environ.get(TRACEBACK):
        if setting:
            error.add_note(setting)
        return None
    # A library's text over several lines of code may hold their indentation.
    message = setting or _no_download(error) or re.sub(" {4,}", " ", origin(error).message)
    traceback.clear_frames(error.__traceback__)  # as above
    print(f"{name}: error: {message}\n(set {TRACEBACK}=1 to see where it arose)", file=sys.stderr)
    return 2


def is_mistake(error: BaseException, main: Callable[[], None]) -> bool:
    """Whether an error is one that the user can mend, rather than a fault of the code.

    These are a file that is missing or cannot be used or downloaded, a full disk, and what a `raise` statement of this
    package or of the tool says in a ``ValueError``, ``TypeError`` or ``ImportError``. An error of the same type that merely
    happens in a line of ours is none. Of other libraries, the functions in ``SPEAK_TO_THE_USER`` count, assertions about
    image sizes, and what is said of an optional package that is missing, or of a file that cannot be had.

    Args:
        error: the error, with its traceback.
        main: the tool's main function.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, URLError)):
        return True
    raised = origin(error)
    if raised.function == "_assert" and raised.file.endswith("torch/__init__.py"):
        return SIZE.search(raised.message) is not None
    if isinstance(error, (RuntimeError, AssertionError)) and MISSING.search(raised.message):
        return True
    if not raised.line.startswith("raise "):
        return False
    if isinstance(error, ImportError):
        return True
    if isinstance(error, OSError) and error.errno is None:  # of a library that cannot find or download a file
        return True
    if any(raised.file.endswith(file) and raised.function == function for file, function in SPEAK_TO_THE_USER):
        return True
    ours = raised.file == main.__code__.co_filename or PACKAGE in Path(raised.file).resolve().parents
    return ours and isinstance(error, (ValueError, TypeError))


def _no_download(error: BaseException) -> str | None:
    """What to do about a file that Python's own client could not download; ``None`` of another error."""
    if not isinstance(error, URLError):
        return None
    return (
        f"a file, whose address is in the lines above, cannot be downloaded ({error.reason}). Put it where these lines say, or do "
        f"without it: a config's pretrained weights are model.backbone.init_cfg, or model.pretrained in mmseg (--cfg-options "
        f"model.backbone.init_cfg=None)."
    )


@dataclass(frozen=True)
class Origin:
    """Where an error was raised: the file, the function, and the line as it is written; and what it says."""

    file: str
    function: str
    line: str
    message: str


def origin(error: BaseException) -> Origin:
    """Where an error was raised; if in a worker process of a data loader, of which it brings a text, there."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if not re.match(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback", message):
        return Origin(frame.filename, frame.name, frame.line or "", message)
    *_, last = re.finditer(r'^  File "(.+)", line \d+, in (.+)\n    (.+)\n(?: {4}.*\n)*', message, re.M)
    return Origin(last[1], last[2], last[3], message[last.end() :].partition(": ")[2].strip())


def wrong_setting(error: BaseException) -> str | None:
    """What is wrong with a config whose setting a class does not know, or which lacks one that the class needs.

    Python's ``TypeError`` is that of the call in which mmengine builds an object from a dict, or of one below it that
    the constructor passes a setting of the dict on to.

    Args:
        error: the error, with its traceback.

    Returns:
        The message; ``None`` if the error is another one.
    """
    found = re.search(r"got an unexpected keyword argument '(\w+)'|missing \d+ required .*arguments?: (.+)", str(error))
    builds = [f for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "build_from_cfg"]
    if not isinstance(error, TypeError) or found is None or not builds:
        return None
    settings, unknown, lacking = builds[-1].f_locals["cfg"], found[1], found[2]
    kind = builds[-1].f_locals.get("obj_cls")
    where = f"the config's {settings['type']}"
    if lacking and traceback.extract_tb(error.__traceback__)[-1].name == "build_from_cfg":
        return f"{where} lacks what it needs: {lacking}."
    if not unknown or unknown not in settings:
        return None
    known = sorted(_parameters(kind) - {"self", "args", "kwargs"})
    near = difflib.get_close_matches(unknown, known, 1)
    return (
        f"{where} has no setting {unknown!r}{''.join(f'; near: {n}' for n in near)}. It has {', '.join(known)}. What "
        f"a base config sets stays, unless the dict that changes it has _delete_=True."
    )


def _parameters(kind: Any) -> set[str]:
    """Names of the parameters of a function, or of a class's constructor and those of its base classes."""
    constructors = (
        [vars(c)["__init__"] for c in kind.__mro__ if "__init__" in vars(c)] if isinstance(kind, type) else [kind]
    )
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, but never inside ``torch.save``, whose C++ writer would abort the process."""
    while frame is not None:
        if frame.f_code is torch.save.__code__:
            _send_again(number)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _send_again(number: int) -> None:
    """Send this process a signal in a moment."""
    retry = threading.Timer(0.05, os.kill, (os.getpid(), number))
    retry.daemon = True
    retry.start()


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: mmengine's config formatter turns any exception into a SyntaxError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
