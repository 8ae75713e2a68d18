"""A local file backend for checkpoints: whole files only, and never fewer than before.

mmengine's CheckpointHook removes the checkpoint that is to go *before* it writes the new one, and notes the newest in a
file that it empties first. A process that is killed in between leaves nothing to resume from; here it does.
"""

import os
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend


class AtomicLocalBackend(LocalBackend):
    """``LocalBackend`` that writes to a temporary name and renames, and removes files once the next one is written.

    Use it for checkpoints: ``default_hooks=dict(checkpoint=dict(backend_args=dict(backend='atomic_local')))``.
    """

    _outdated: ClassVar[list[Path]] = []  # of all instances: the hook removes with one and saves with another

    def remove(self, filepath: str | Path) -> None:
        """Remove a file after the next ``put``."""
        self._outdated.append(Path(filepath))

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
        self.remove_outdated(path)

    @classmethod
    def remove_outdated(cls, new: Path) -> None:
        """Remove what ``remove`` was asked for, now that ``new`` is there."""
        for old in cls._outdated:
            if old != new:
                old.unlink(missing_ok=True)
        cls._outdated.clear()


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint that a training goes on from: the noted one, or the newest if the note is missing or outdated."""
    folder, note = Path(work_dir), Path(work_dir) / "last_checkpoint"
    noted = Path(note.read_text().strip()) if note.is_file() else Path()
    if noted.is_file():
        return str(noted)
    files = [p for kind in ("iter", "epoch") for p in folder.glob(f"{kind}_*.pth")]
    return str(max(files, key=lambda p: p.stat().st_mtime_ns)) if files else None


register_backend("atomic_local", AtomicLocalBackend, force=True)
