"""Files that are whole or not there, and never in the place of somebody else's."""

import csv
import glob
import json
import os
import shutil
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import uuid4

LEFT_BEHIND = 24 * 60 * 60  # seconds for which nobody has written to a temporary file whose process was killed


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden temporary name of the same suffix, to be written inside; it becomes ``path`` at the end, or goes.

    Each call has its own, so that of several processes that write the same file one leaves it whole. What a process that was
    killed has left goes when the same file is written a day later. A symbolic link stays, and the file that it points to is
    replaced, as by ``open``.

    Args:
        path: the file.

    Raises:
        ValueError: it is a folder or a device.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{path} is {'a folder' if target.is_dir() else 'a device'}; give the name of a file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem.lstrip(".")
    for left in target.parent.glob(f".{glob.escape(stem)}.{'[0-9a-f]' * 8}.partial{glob.escape(path.suffix)}"):
        with suppress(OSError):  # another process was first
            if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                left.unlink()
    partial = target.with_name(f".{stem}.{uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a table, whole or not at all; what a row does not have stays empty.

    Args:
        path: the file, which is replaced.
        rows: name of a column -> value, of each row.
        columns: names of the columns in order; by default those of the rows, as they come up.
    """
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def is_taken(path: Path) -> bool:
    """Whether there is a file of this name, or a folder that holds something."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def check_new(path: str | os.PathLike, overwrite: bool) -> None:
    """Raise ``ValueError`` if there is such a file, or such a folder with anything in it, unless ``overwrite``."""
    path = Path(path)
    if is_taken(path) and not overwrite:
        raise ValueError(f"{path} exists; give another name, or --overwrite to replace it.")


def claim(folder: str | os.PathLike, owner: str) -> None:
    """Make a folder of results, and say by a hidden file to later runs of its owner that they may replace them."""
    marker = _marker(folder, owner)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def is_claimed(folder: str | os.PathLike, owner: str) -> bool:
    """Whether an earlier run of ``owner`` has claimed a folder."""
    return _marker(folder, owner).is_file()


def _marker(folder: str | os.PathLike, owner: str) -> Path:
    return Path(folder) / f".written-by-{owner}"


def check_claim(folder: str | os.PathLike, owner: str, files: Iterable[str], overwrite: bool = False) -> None:
    """Check that none of the files to be written into a folder is somebody else's.

    Args:
        folder: the folder, which need not exist.
        owner: name of the tool that writes into it.
        files: names of the files that it will write.
        overwrite: the user has said that they may be replaced.

    Raises:
        ValueError: a file of these names is there, and the owner has not claimed the folder before; or it is a file.
    """
    folder = Path(folder)
    _check_no_file(folder)
    taken = [name for name in files if (folder / name).exists()]
    if taken and not is_claimed(folder, owner) and not overwrite:
        raise ValueError(
            f"{folder} holds {', '.join(taken)}, which {owner} did not write there; give another folder, or --overwrite "
            f"to replace what it writes."
        )


def _check_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder.")


def check_made(folder: str | os.PathLike, made: Iterable[str]) -> None:
    """Raise ``ValueError`` if a folder, which is about to be replaced, holds other files than those that were made.

    Args:
        folder: the folder.
        made: patterns of the relative paths of the files that were made, where ``*`` stands for anything. What ``replacing``
            has left of a process that was killed is one of them.
    """
    folder, made = Path(folder), (*made, ".*.partial*", "*/.*.partial*")
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    others = [name for name in sorted(files) if not any(fnmatch(name, pattern) for pattern in made)]
    if others:
        raise ValueError(
            f"{folder} is not deleted: it holds files that were not made here ({len(others)}), such as {others[0]}. Move "
            f"them away, or give another folder."
        )


def empty_folder(folder: str | os.PathLike, made: Iterable[str]) -> None:
    """Delete all that is in a folder, after ``check_made``; the folder stays, which may be a symbolic link."""
    check_made(folder, made)
    for path in Path(folder).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def replacing_folder(path: str | os.PathLike, made: Iterable[str]) -> Iterator[Path]:
    """A hidden folder, to be filled inside; it becomes ``path`` at the end, or goes.

    A folder that is there stays until then, as does a symbolic link to it. What a run that was killed has left is cleared.

    Args:
        path: the folder.
        made: as in ``check_made``, of a folder that is replaced.

    Raises:
        ValueError: another process is filling it, or there is a file, or a folder with other files.
    """
    from filelock import FileLock, Timeout

    made, path = tuple(made), Path(os.path.realpath(path))
    partial, lock = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "lock"))
    _check_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:  # the system gives the lock back, even of a process that is killed
        locked = FileLock(lock).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path} is just being made by another process; wait until it has ended.") from None
    with locked:
        try:
            for folder in (path, partial):
                if folder.exists():
                    check_made(folder, made)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                if path.exists():
                    empty_folder(path, made)
                    path.rmdir()
                partial.replace(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        finally:
            with suppress(PermissionError):  # Windows deletes no file that is open; there FileLock does it
                lock.unlink(missing_ok=True)


def files_below(folder: str | os.PathLike) -> Iterator[Path]:
    """The files of a folder and of all folders in it, also of those that are symbolic links; hidden ones are left out."""
    for place, folders, names in os.walk(str(folder), followlinks=True):
        real = Path(os.path.realpath(place))  # no link back to a folder in which it lies
        inner = [
            name for name in folders if name[0] != "." and not real.is_relative_to(os.path.realpath(f"{place}/{name}"))
        ]
        folders[:] = inner
        yield from (Path(place, name) for name in names if name[0] != ".")


def spelling(name: str) -> str:
    """A name as it is compared with others: an accent may be a part of its letter, or on macOS a sign behind it."""
    return unicodedata.normalize("NFC", name)


def settings_in(marker: str | os.PathLike) -> dict[str, Any] | None:
    """What a tool has written into the JSON file that marks its folder; ``None`` if it is missing, or of something else."""
    try:
        found = json.loads(Path(marker).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def lines_of(path: str | os.PathLike) -> list[str]:
    """The lines of a text file, without spaces around them; empty ones are left out.

    Raises:
        ValueError: it is missing, or no text in UTF-8.
    """
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def text_of(path: str | os.PathLike) -> str:
    """What a text file says.

    Raises:
        ValueError: it is missing, or no text in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8 ({error.reason}); save it as one.") from error
