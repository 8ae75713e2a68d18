"""Event videos as a PyTorch and mmengine data set."""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from .files import SUFFIXES, read_events


class ShapeEvents(Dataset):
    """Videos of a folder; each item is a warm-up and a scored part.

    Args:
        root: folder of event files.
        train: the first 80 % of the sorted files, else the rest.
        t: frames of each of the two parts; longer videos give several items, one after another.
        stack: consecutive frames that are concatenated as channels (2 stack of them), the newest last.
        pose_delay: frames by which the labels lag behind.

    Item: dict(warmup (t, 2 stack, H, W) float32, frames likewise, poses (t, shapes, 2) in pixels, (row, column)).

    Raises:
        ValueError: no files, or videos shorter than ``2 t + pose_delay``.
    """

    def __init__(self, root: str | Path, train: bool = True, t: int = 40, stack: int = 1, pose_delay: int = 0):
        files = sorted(p for p in Path(root).rglob("*") if p.suffix in SUFFIXES)
        if not files:
            raise ValueError(f"`root` is {str(root)!r}; no {', '.join(SUFFIXES)} files are there. Generate them first.")
        if min(t, stack) < 1 or pose_delay < 0:
            raise ValueError(f"`t` is {t}, `stack` {stack}, `pose_delay` {pose_delay}; at least 1, 1 and 0.")
        split = max(1, int(0.8 * len(files)))
        self.files = files[:split] if train else files[split:]
        if not self.files:
            raise ValueError(f"`root` is {str(root)!r} with {len(files)} file(s); testing needs at least 2.")
        self.t, self.stack, self.pose_delay = t, stack, pose_delay
        length = len(read_events(self.files[0])[0])
        self.per_file = length // (2 * t + pose_delay)
        if not self.per_file:
            raise ValueError(
                f"the videos have {length} frames; t={t}, pose_delay={pose_delay} need {2 * t + pose_delay}."
            )

    def __len__(self) -> int:
        return len(self.files) * self.per_file

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        events, labels = read_events(self.files[index // self.per_file])
        start = (index % self.per_file) * (2 * self.t + self.pose_delay)
        frames = _stacked(events.float(), self.stack)
        middle, end = start + self.t, start + 2 * self.t
        poses = labels[middle - self.pose_delay : end - self.pose_delay]
        return dict(warmup=frames[start:middle], frames=frames[middle:end], poses=poses)


def _stacked(frames: torch.Tensor, count: int) -> torch.Tensor:
    """(T, C, H, W) -> (T, count C, H, W): each frame behind those before it, zeros before the first."""
    padded = torch.cat([torch.zeros_like(frames[:1]).expand(count - 1, *frames.shape[1:]), frames])
    return torch.cat([padded[k : k + len(frames)] for k in range(count)], 1)
