"""Event videos as a PyTorch and mmengine data set."""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from ..checks import as_path
from ..events.files import SUFFIXES, frame_count, read_events
from ..files import files_below


class ShapeEvents(Dataset):
    """Videos of a folder; each item is a warm-up and a scored part.

    Args:
        data_root: folder of event files, in subfolders or not.
        train: the first 80 % of the sorted files of each folder, else the rest.
        t: frames of each of the two parts; longer videos give several items, one after another. Videos may differ in
            length.
        stack: consecutive frames that are concatenated as channels (2 stack of them), the newest last.
        pose_delay: frames by which the labels lag behind.
        in_memory: keep the events of files that were read, one byte per pixel, polarity and frame.

    Item: dict(warmup (t, 2 stack, H, W) float32, frames likewise, poses (t, shapes, 2) in pixels, (row, column)).

    Raises:
        ValueError: no files, or a video shorter than ``2 t + pose_delay``.
    """

    def __init__(
        self,
        data_root: str | Path,
        train: bool = True,
        t: int = 40,
        stack: int = 1,
        pose_delay: int = 0,
        in_memory: bool = False,
    ):
        folders: dict[Path, list[Path]] = {}
        for path in sorted(p for p in files_below(as_path("data_root", data_root)) if p.suffix.lower() in SUFFIXES):
            folders.setdefault(path.parent, []).append(path)
        if not folders:
            raise ValueError(
                f"`data_root` is {str(data_root)!r}; no {', '.join(SUFFIXES)} files are there. "
                f"Make them with sterf make-events."
            )
        if min(t, stack) < 1 or not 0 <= pose_delay <= t:
            raise ValueError(
                f"`t` is {t}, `stack` {stack}, `pose_delay` {pose_delay}; the first two must be at least 1, and the delay from 0 "
                f"to `t`, since labels begin with the file."
            )
        self.files = []
        for files in folders.values():
            split = max(1, int(0.8 * len(files)))
            self.files += files[:split] if train else files[split:]
        if not self.files:
            raise ValueError(f"`data_root` is {str(data_root)!r}; testing needs at least 2 files in a folder.")
        self.t, self.stack, self.pose_delay = t, stack, pose_delay
        self._kept: dict[Path, tuple[torch.Tensor, torch.Tensor]] | None = {} if in_memory else None
        span = 2 * t + pose_delay
        self.items: list[tuple[Path, int]] = []  # file, first frame
        for path in self.files:
            length = frame_count(path)
            if length < span:
                raise ValueError(f"{path} has {length} frames; t={t}, pose_delay={pose_delay} need {span}.")
            self.items += [(path, k * span) for k in range(length // span)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        path, start = self.items[index]
        events, labels = self._read(path)
        frames = _stacked(events.float(), self.stack)
        middle, end = start + self.t, start + 2 * self.t
        poses = labels[middle - self.pose_delay : end - self.pose_delay]
        return dict(warmup=frames[start:middle], frames=frames[middle:end], poses=poses)

    def _read(self, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        if self._kept is not None and path in self._kept:
            return self._kept[path]
        events, labels = read_events(path)
        if labels is None:
            raise ValueError(f"{path} has no labels, the shapes' centres; make it with sterf make-events.")
        if self._kept is not None:
            self._kept[path] = events, labels
        return events, labels


def _stacked(frames: torch.Tensor, count: int) -> torch.Tensor:
    """(T, C, H, W) -> (T, count C, H, W): each frame behind those before it, zeros before the first."""
    padded = torch.cat([torch.zeros_like(frames[:1]).expand(count - 1, *frames.shape[1:]), frames])
    return torch.cat([padded[k : k + len(frames)] for k in range(count)], 1)
