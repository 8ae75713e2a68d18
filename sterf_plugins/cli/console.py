"""How command-line tools end: errors in one line, interruptions without a lost or broken file."""

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

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
)


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
    """Run a tool: mistakes of the user become one line and exit code 2, Ctrl-C becomes exit code 130.

    Other errors keep their traceback, with a hint at its end. While the tool runs, in it and in processes that it
    starts, no library runs code from a checkpoint.

    Args:
        main: the tool's main function.
        again: what to run to go on after an interruption, for the message.
    """
    name = Path(sys.argv[0]).name
    loading = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
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
        if not is_mistake(error, main):
            error.add_note(HINT)
            raise
        if os.environ.get(TRACEBACK):
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"{name}: error: {message}\n(set {TRACEBACK}=1 to see where it arose)", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        signal.signal(signal.SIGINT, previous)
        os.environ.pop(WEIGHTS_ONLY)
        if loading is not None:
            os.environ[WEIGHTS_ONLY] = loading


def is_mistake(error: BaseException, main: Callable[[], None]) -> bool:
    """Whether an error is one that the user can mend, rather than a fault of the code.

    These are a file that is missing or cannot be used, a full disk, and what a `raise` statement of this package or of the
    tool says in a ``ValueError``, ``TypeError`` or ``ImportError``. An error of the same type that merely happens in a line of
    ours is none. Of other libraries, the functions in ``SPEAK_TO_THE_USER`` count.

    Args:
        error: the error, with its traceback.
        main: the tool's main function.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    place = traceback.extract_tb(error.__traceback__)[-1]
    if not (place.line or "").startswith("raise "):
        return False
    if any(place.filename.endswith(file) and place.name == function for file, function in SPEAK_TO_THE_USER):
        return True
    ours = place.filename == main.__code__.co_filename or PACKAGE in Path(place.filename).resolve().parents
    return ours and isinstance(error, (ValueError, TypeError, ImportError))


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
