"""Files of events that cannot be read: what libraries raise for them, as a ``ValueError`` of one line."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

# What NumPy, h5py and zipfile raise for files that are damaged, or of another kind.
_DAMAGED = (OSError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError, TokenError)


@contextmanager
def explained(
    path: Path, *others: type[Exception], hint: str = "It may be cut off, or of another format."
) -> Iterator[None]:
    """Turn what other libraries raise for a file that cannot be read into a ``ValueError`` of one line.

    Args:
        path: the file.
        others: more types of such errors, where no line of this package inside raises them.
        hint: the end of the message.
    """
    kinds: tuple[type[Exception], ...] = (*_DAMAGED, *others)
    try:
        yield
    except kinds as error:
        raise unreadable(path, error, hint) from error


def unreadable(path: Path, error: BaseException, hint: str = "It may be cut off, or of another format.") -> ValueError:
    """The error of one line for an error of another library."""
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    line = "".join(c if c.isprintable() else "?" for c in line[:200])
    return ValueError(f"{path} cannot be read as an event file: {line}. {hint}")
