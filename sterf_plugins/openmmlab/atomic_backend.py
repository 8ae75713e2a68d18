"""A local file backend that never leaves a half-written file under its final name."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


class AtomicLocalBackend(LocalBackend):
    """``LocalBackend`` that writes to a temporary name and renames.

    Use it for checkpoints: ``default_hooks=dict(checkpoint=dict(backend_args=dict(backend='atomic_local')))``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; the file appears complete or not at all."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


register_backend("atomic_local", AtomicLocalBackend, force=True)
