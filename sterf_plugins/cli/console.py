"""How command-line tools end: errors in one line, interruptions without a lost or broken file."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

# Errors that the user can mend; they are shown in one line, without a traceback.
USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, AssertionError, NotImplementedError, MemoryError)
# Environment variable; if it is set, these errors have their traceback too.
TRACEBACK = "STERF_TRACEBACK"


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


def check_device(name: str) -> None:
    """Raise ``ValueError`` unless tensors can be put on the device (cpu, cuda or cuda:N)."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} cannot be used: {str(error).splitlines()[0]} Give cpu, cuda or cuda:N."
        ) from error


def run_tool(main: Callable[[], None], again: str = "the same command and --resume") -> None:
    """Run a tool: user errors become one line and exit code 2, Ctrl-C becomes exit code 130.

    Args:
        main: the tool's main function.
        again: what to run to go on after an interruption, for the message.
    """
    name = Path(sys.argv[0]).name
    previous = signal.signal(signal.SIGINT, _interrupt)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pkg_resources.*")
            main()
    except (Exception, KeyboardInterrupt) as error:
        if _interrupted(error):
            print(f"\n{name}: interrupted; go on with {again}", file=sys.stderr)
            raise SystemExit(130) from None
        if isinstance(error, FloatingPointError):
            print(f"{name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error
        if not isinstance(error, USER_ERRORS) or os.environ.get(TRACEBACK):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = str(message) or f"{type(error).__name__} without a message"
        print(f"{name}: error: {message}\n(set {TRACEBACK}=1 to see where it arose)", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        signal.signal(signal.SIGINT, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, but never inside ``torch.save``, whose C++ writer would abort the process."""
    while frame is not None:
        if frame.f_code is torch.save.__code__:
            retry = threading.Timer(0.05, os.kill, (os.getpid(), number))
            retry.daemon = True
            retry.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: mmengine's config formatter turns any exception into a SyntaxError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
