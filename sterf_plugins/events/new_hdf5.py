"""HDF5 files that are written whole, or with an ``OSError``.

Where the disk is full, HDF5's own writer may say nothing and leave a file without its last part, and it ends the process later.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _File(io.FileIO):
    """A file whose errors of writing HDF5 does not see: the first one waits in ``failed``."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        count = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failed = self.failed or error
        return count

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failed = self.failed or error
        return size or 0


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """A new HDF5 file, an ``h5py.File``, to be written inside.

    Raises:
        OSError: it could not be written, as where the disk is full.
    """
    import h5py

    with _File(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        finally:
            if raw.failed is not None:
                raise OSError(raw.failed.errno, raw.failed.strerror, str(path)) from raw.failed
