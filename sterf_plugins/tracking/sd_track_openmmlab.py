"""SDTrack for mmengine's Runner: model, data sets and metric."""

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert, box_iou

from ..registry import DATASETS, METRICS, MODELS
from .box_losses import WEIGHTS, centre_losses
from .box_metrics import PROTOCOLS, curves, mean_curves
from .centre_head import decode
from .follow import Follower
from .pairs import TrackingPairs
from .sd_track import SDTrack
from .sequences import Sequence, find_sequences, read_boxes, write_boxes


@MODELS.register_module(name="SDTrack")
class SDTrackModel(BaseModel):
    """``tracking.SDTrack`` with its losses; in a test it follows the object through a whole sequence.

    Args:
        loss_weights: factors of the losses "giou", "l1" and "focal".
        data_preprocessor, init_cfg: as in every mmengine model. ``checkpoints.sd_track.convert_tracker`` renames a checkpoint of
            the release for ``network``.
        **network: arguments of ``tracking.SDTrack``.
    """

    def __init__(
        self,
        loss_weights: dict[str, float] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **network: Any,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.loss_weights = WEIGHTS | (loss_weights or {})
        self.network = SDTrack(**network)

    def forward(
        self,
        template: Tensor | None = None,
        search: Tensor | None = None,
        box: Tensor | None = None,
        sequence: list | None = None,
        mode: str = "tensor",
    ) -> Any:
        """The maps or losses of training pairs, or the boxes of a test sequence.

        Args:
            template: uint8 (B, 3, Z, Z), or (B, T, 3, Z, Z).
            search: uint8 (B, 3, S, S), or (B, T, 3, S, S).
            box: (B, 4), x, y, w, h over the search region's side.
            sequence: what a test runs.
            mode: "tensor" returns ``CentreMaps``, "loss" the losses, "predict" a dict for each sequence.
        """
        if mode == "predict":
            return [self.follow(one) for one in sequence or []]
        assert template is not None and search is not None
        maps = self.network(*(self._images(x) for x in (template, search)))
        if mode == "tensor":
            return maps
        losses = {f"loss_{k}": self.loss_weights[k] * v for k, v in centre_losses(maps, box).items()}  # type: ignore[arg-type]
        losses["iou"] = _overlap(decode(maps).detach(), box)  # type: ignore[arg-type]
        return losses

    def follow(self, run: "TestRun") -> dict[str, Any]:
        """The boxes of a sequence, unless an earlier test has written them, and the seconds that they took."""
        sequence = run.sequence
        if run.results is not None and run.results.is_file():
            return dict(name=sequence.name, boxes=read_boxes(run.results), labels=sequence.boxes, seconds=None)
        start = time.perf_counter()
        images = sequence.images()
        follower = Follower(self.network, next(images), sequence.boxes[0], *run.sizes)
        boxes = [sequence.boxes[0], *(follower.step(image).box for image in images)]
        return dict(
            name=sequence.name, boxes=np.stack(boxes), labels=sequence.boxes, seconds=time.perf_counter() - start
        )

    def _images(self, x: Tensor) -> Tensor:
        """Bytes as the network's numbers 0 to 255, with the time axis first."""
        return (x.transpose(0, 1) if x.ndim == 5 else x).to(next(self.network.parameters()))


def _overlap(decoded: Tensor, box: Tensor) -> Tensor:
    """Mean intersection over union, for the log."""
    return box_iou(box_convert(decoded, "cxcywh", "xyxy"), box_convert(box, "xywh", "xyxy")).diagonal().mean()


@dataclass(frozen=True)
class TestRun:
    """A sequence to follow.

    Args:
        sequence: the images, and the box to begin with.
        sizes: sides of template and search region in pixels.
        results: the file of boxes that an earlier test may have written; ``None`` to follow in any case.
    """

    sequence: Sequence
    sizes: tuple[int, int]
    results: Path | None


class _TrackingSequences(Dataset):
    """Whole sequences for a test, one after another."""

    def __init__(self, sequences: list[Sequence], sizes: tuple[int, int], results: str | Path | None):
        self.sequences, self.sizes = sequences, sizes
        self.results = None if results is None else Path(results)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sequence = self.sequences[index]
        done = None if self.results is None else self.results / f"{sequence.name}.txt"
        return dict(sequence=TestRun(sequence, self.sizes, done))


@DATASETS.register_module(name="TrackingDataset")
def tracking_dataset(
    data_root: str,
    layout: str = "fe108",
    split: str = "train",
    T: int = 1,
    names: Several[str] | str | None = None,
    samples: int = 60_000,
    template_size: int = 128,
    search_size: int = 256,
    seed: int = 0,
    results: str | None = None,
) -> Dataset:
    """Sequences of event images with boxes: pairs for a training, whole sequences for a test.

    Args:
        data_root: the folder that has ``train/`` and ``test/``.
        layout: "fe108" or "visevent", see ``tracking.sequences``.
        split: "train" gives pairs, "test" sequences.
        T: parts of each image, 1, 2 or 4, as the tracker's variant has time steps.
        names: sequences to take, or a text file of them; ``None`` for all.
        samples: number of pairs; each is drawn anew, so that a long training wants as many as it sees.
        template_size: side of the template in pixels.
        search_size: side of the search region in pixels.
        seed: seed of the pairs.
        results: of a test, the folder of results; sequences whose file is there are not run again.
    """
    sequences = find_sequences(data_root, layout, split, T, names)
    if split == "test":
        return _TrackingSequences(sequences, (template_size, search_size), results)
    return TrackingPairs(sequences, samples, template_size, search_size, seed)


@DATASETS.register_module(name="FE108Dataset")
def fe108_dataset(data_root: str, **options: Any) -> Dataset:
    """``TrackingDataset`` of the layout "fe108"."""
    return tracking_dataset(data_root, "fe108", **options)


@DATASETS.register_module(name="VisEventDataset")
def visevent_dataset(data_root: str, **options: Any) -> Dataset:
    """``TrackingDataset`` of the layout "visevent"."""
    return tracking_dataset(data_root, "visevent", **options)


@METRICS.register_module()
class TrackingMetric(BaseMetric):
    """AUC, PR, NPR, OP50 and OP75 in per cent, see ``tracking.box_metrics``; and the frames of a second.

    Args:
        protocol: "toolkit" or "ostrack".
        results: folder in which each sequence's boxes are written; ``None``: nowhere.
        integers: write them cut to integers, as the published results are.
        **options: arguments of mmengine's ``BaseMetric``.
    """

    default_prefix = None

    def __init__(self, protocol: str = "toolkit", results: str | None = None, integers: bool = False, **options: Any):
        super().__init__(**options)
        if protocol not in PROTOCOLS:
            raise ValueError(f"`protocol` is {protocol!r}; allowed: {', '.join(PROTOCOLS)}.")
        self.protocol, self.integers = protocol, integers
        self.folder = None if results is None else Path(results)

    def process(self, data_batch: Any, data_samples: Several[dict]) -> None:
        for sample in data_samples:
            if self.folder is not None and sample["seconds"] is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_boxes(self.folder / f"{sample['name']}.txt", sample["boxes"], self.integers)
            boxes = np.trunc(sample["boxes"]) if self.integers else sample["boxes"]
            one = curves(boxes, sample["labels"], protocol=self.protocol)
            self.results.append((sample["name"], one, len(boxes), sample["seconds"]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        for name, one, _, _ in sorted(results, key=lambda r: r[0]):
            print_log(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in one.numbers().items()), logger="current")
        numbers = mean_curves(one for _, one, _, _ in results).numbers()
        timed = [(count, seconds) for _, _, count, seconds in results if seconds]
        if timed:
            numbers["frames_per_second"] = sum(n for n, _ in timed) / sum(s for _, s in timed)
        return numbers
