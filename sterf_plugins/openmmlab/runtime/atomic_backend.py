"""A local file backend for checkpoints with which a killed training always leaves a complete checkpoint.

mmengine's CheckpointHook removes the outdated checkpoint *before* it writes the new one, and empties the file that
names the newest checkpoint before it writes the new name. A process killed in between leaves nothing to resume from.
"""

import os
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend

from ...files import replacing


class AtomicLocalBackend(LocalBackend):
    """``LocalBackend`` that writes under a temporary name first, and removes a file only after the next one is written.

    Use it for checkpoints: ``default_hooks=dict(checkpoint=dict(backend_args=dict(backend='atomic_local')))``.
    """

    _outdated: ClassVar[list[Path]] = []  # of all instances: the hook removes through one and saves through another

    def remove(self, filepath: str | Path) -> None:
        """Mark a file as outdated; the next ``put`` removes it."""
        self._outdated.append(Path(filepath))

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file that appears complete or not at all, then remove the outdated files."""
        path = Path(filepath)
        with replacing(path) as partial, open(partial, "wb") as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        self.remove_outdated(path)

    @classmethod
    def remove_outdated(cls, new: Path) -> None:
        """Remove the files that ``remove`` marked, except ``new``, which has just been written."""
        for old in cls._outdated:
            if old != new:
                old.unlink(missing_ok=True)
        cls._outdated.clear()


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the checkpoint from which a training in ``work_dir`` goes on, or ``None`` if there is none.

    It is the one that the file ``last_checkpoint`` names, or the newest if that file is missing or names a removed one.
    """
    folder, note = Path(work_dir), Path(work_dir) / "last_checkpoint"
    noted = Path(note.read_text().strip()) if note.is_file() else Path()
    if noted.is_file():
        return str(noted)
    files = [p for kind in ("iter", "epoch") for p in folder.glob(f"{kind}_*.pth")]
    return str(max(files, key=lambda p: p.stat().st_mtime_ns)) if files else None


register_backend("atomic_local", AtomicLocalBackend, force=True)
