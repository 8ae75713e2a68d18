"""SDTrack for mmengine's Runner: model, data sets and metric."""

import inspect
import json
import time
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.model import BaseModel, PretrainedInit
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert, box_iou

from ..checkpoints.reading import read_checkpoint
from ..checkpoints.sd_track import is_published_tracker
from ..checks import finite_number, flag, one_of, positive_int
from ..files import claim
from ..plugins import check_options
from ..registry import DATASETS, METRICS, MODELS
from .box_losses import WEIGHTS, centre_losses
from .box_metrics import PROTOCOLS, curves, mean_curves
from .centre_head import CentreMaps, decode
from .crops import check_box
from .follow import Follower
from .pairs import TrackingPairs
from .published import published_weights
from .recordings import find_recorded_sequences
from .results import OWNER, check_own_results, check_tested, weights_digest
from .sd_track import VARIANTS, SDTrack
from .sequences import Sequence, find_sequences, read_boxes, write_boxes


@MODELS.register_module(name="SDTrack")
class SDTrackModel(BaseModel):
    """``tracking.SDTrack`` with its losses; in a test it follows the object through a whole sequence.

    Args:
        loss_weights: factors of the losses "giou", "l1" and "focal".
        data_preprocessor: as in every mmengine model.
        init_cfg: mmengine's initialisation. Of type "Pretrained" it is a published checkpoint, of a tracker or of the classifier
            from which one starts.
        **network: arguments of ``tracking.SDTrack``.

    Its checkpoints say of which variant they are, since the weights of all variants have the same names and shapes.
    """

    variant: Tensor
    takes_bytes = True  # images are numbers 0 to 255, and not normalised

    def __init__(
        self,
        loss_weights: dict[str, float] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **network: Any,
    ):
        super().__init__(data_preprocessor, init_cfg)
        check_options("`loss_weights`", loss_weights or (), WEIGHTS)
        self.loss_weights = WEIGHTS | (loss_weights or {})
        for name, weight in self.loss_weights.items():
            finite_number(f"loss_weights[{name!r}]", weight)
        parameters = inspect.signature(SDTrack).parameters
        check_options("SDTrack", network, parameters)
        self.network = SDTrack(**network)
        # What the same weights give other boxes with, such as the layout of a mixer, as plain values.
        names = ("arch", "mixer", "ratio", "layout", "variant")
        chosen = {name: network.get(name, parameters[name].default) for name in names}
        self.settings = {
            f"model.{name}": json.loads(json.dumps(value, default=_name)) for name, value in chosen.items()
        }
        self.register_buffer("variant", torch.tensor(VARIANTS[self.network.variant]))
        self.register_load_state_dict_pre_hook(_check_variant)

    def init_weights(self) -> None:
        """Load the published checkpoint of ``init_cfg``, if there is one; the constructor has initialised everything else."""
        if not self.init_cfg or self.init_cfg.get("type") not in ("Pretrained", PretrainedInit) or self.is_init:  # type: ignore[has-type]
            super().init_weights()
            return
        path = self.init_cfg["checkpoint"]
        checkpoint = read_checkpoint(path)
        if not is_published_tracker(checkpoint):
            raise ValueError(
                f"`init_cfg`: {path} is no published SDTrack; give a checkpoint of this package as `load_from`."
            )
        entries, left_out = published_weights(self.network, checkpoint, path)
        self.network.load_state_dict(entries, strict=False)
        print_log(
            f"{len(entries)} of {len(self.network.state_dict())} entries of the network are from {path}; left out of it: "
            f"{', '.join(left_out) or 'nothing'}",
            logger="current",
        )
        self.is_init = True

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
        if template is None or search is None:
            raise ValueError(
                "an SDTrack takes a template and a search region; `extract_feat` takes both from one image."
            )
        maps = self.network(*(self._images(x) for x in (template, search)))
        if mode == "tensor":
            return maps
        losses = {f"loss_{k}": self.loss_weights[k] * v for k, v in centre_losses(maps, box).items()}  # type: ignore[arg-type]
        losses["iou"] = _overlap(decode(maps).detach(), box)  # type: ignore[arg-type]
        return losses

    def extract_feat(self, images: Tensor) -> CentreMaps:
        """The maps where one image gives both regions: its middle is the template, as where the object has not moved.

        Args:
            images: event images of values 0 to 255, (B, 3, S, S), held over the time steps, or (T, B, 3, S, S).
        """
        if images.ndim == 4 and self.network.T > 1:
            images = images.expand(self.network.T, *images.shape)
        quarter = images.shape[-1] // 4
        return self.network(images[..., quarter:-quarter, quarter:-quarter], images)

    def follow(self, run: "TestRun") -> dict[str, Any]:
        """The boxes of a sequence, unless an earlier test has written them, and the seconds that they took."""
        sequence = run.sequence
        outcome = dict(name=sequence.name, labels=sequence.boxes, absent=sequence.absent, results=run.results)
        if run.results is not None:
            weights = weights_digest(self.network.state_dict())
            check_tested(
                run.results, dict(weights=weights, **self.settings, **run.settings, made_with=sequence.made_with())
            )
        if run.results is not None and run.results.exists():
            known = read_boxes(run.results)
            if len(known) != len(sequence):
                raise ValueError(
                    f"{run.results} has {len(known)} boxes, and sequence {sequence.name} {len(sequence)} images; delete the file "
                    f"to follow the object anew."
                )
            if (np.abs(known[0] - sequence.boxes[0]) >= 1).any():  # less than a pixel: it may have been cut to integers
                raise ValueError(
                    f"{run.results} begins with the box {known[0].tolist()}, and the labels of sequence {sequence.name} with "
                    f"{sequence.boxes[0].tolist()}; delete the file to follow the object anew."
                )
            print_log(f"{sequence.name}: the boxes of {run.results} are taken", logger="current")
            return dict(outcome, boxes=known, seconds=None)
        start = time.perf_counter()
        images = sequence.images()
        follower = Follower(self.network, next(images), sequence.boxes[0], *run.sizes)
        boxes = [sequence.boxes[0], *(follower.step(image).box for image in images)]
        seconds = time.perf_counter() - start
        return dict(outcome, boxes=np.stack(boxes), seconds=seconds)

    def _images(self, x: Tensor) -> Tensor:
        """Bytes as the network's numbers 0 to 255, with the time axis first."""
        parts = x.shape[1] if x.ndim == 5 else 1
        if parts != self.network.T:
            raise ValueError(
                f"the event images have {parts} parts, and a model of variant {self.network.variant} takes {self.network.T}: "
                f"train_dataloader.dataset.T={self.network.T}, or another model.variant."
            )
        return (x.transpose(0, 1) if x.ndim == 5 else x).to(next(self.network.parameters()))


def _name(value: Any) -> str:
    """What a value that JSON does not know is called in any process, such as a mixer that is given as a class."""
    return getattr(value, "__qualname__", type(value).__qualname__)


def _check_variant(model: SDTrackModel, state: dict, prefix: str, *_: Any) -> None:
    """Raise ``ValueError`` for weights of another variant: they would load, and mean nothing."""
    stored = state.get(f"{prefix}variant")
    if stored is not None and stored.tolist() != list(VARIANTS[model.network.variant]):
        raise ValueError(
            f"the checkpoint is of an SDTrack of variant {'x'.join(map(str, stored.tolist()))}, and the config's is of variant "
            f"{model.network.variant}; give the config that it was trained with."
        )


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
        settings: what the boxes depend on besides the tracker, as plain values.
    """

    sequence: Sequence
    sizes: tuple[int, int]
    results: Path | None
    settings: dict[str, Any]


class _TrackingSequences(Dataset):
    """Whole sequences for a test, one after another."""

    def __init__(
        self,
        sequences: list[Sequence],
        sizes: tuple[int, int],
        results: str | Path | None,
        settings: dict[str, Any],
    ):
        for sequence in sequences:  # before hours have passed with those in front of it
            check_box(sequence.boxes[0], sequence.size, f"the first box of sequence {sequence.name}")
        self.sequences, self.sizes, self.settings = sequences, sizes, settings
        self.results = _results_folder(results)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sequence = self.sequences[index]
        done = None if self.results is None else self.results / f"{sequence.name}.txt"
        return dict(sequence=TestRun(sequence, self.sizes, done, self.settings))


def _results_folder(path: str | Path | None) -> Path | None:
    if not isinstance(path, (str, Path, type(None))):
        raise TypeError(f"`results` is {path!r} ({type(path).__name__}); it must be the path of a folder.")
    if path is not None and Path(path).exists() and not Path(path).is_dir():
        raise ValueError(
            f"`results` is {str(path)!r}, which is a file; give a folder, in which each sequence gets its own."
        )
    return None if path is None else Path(path)


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
    images: str = "png",
    interval: int | None = None,
    sensor: Several[int] | None = None,
) -> Dataset:
    """Sequences of event images with boxes: pairs for a training, whole sequences for a test.

    Args:
        data_root: the folder that has ``train/`` and ``test/``.
        layout: "fe108" or "visevent", see ``tracking.sequences``.
        split: "train" gives pairs, "test" sequences.
        T: parts of each image, 1, 2 or 4, as the tracker's variant has time steps.
        names: sequences to take, a text file of them, or a published list: "fe108-train", "fe108-test", "visevent-train",
            "visevent-train-aedat4" (those with a recording of their own), "visevent-test"; ``None`` for all.
        samples: number of pairs; each is drawn anew, so that a long training wants as many as it sees.
        template_size: side of the template in pixels.
        search_size: side of the search region in pixels.
        seed: seed of the pairs.
        results: of a test, the folder of results, where each sequence's boxes are written when it has been followed;
            sequences whose file is there are not run again, and a folder of other weights or settings is an error.
        images: "png" for the files that make_gtp.py has made, "events" to make the same images from the recordings.
        interval: of "events", microseconds of an image; ``None`` for the times of the camera's frames.
        sensor: of "events", (height, width) of the sensor of all recordings, for files that do not say it.
    """
    one_of("images", images, ("png", "events"))
    sizes = positive_int("template_size", template_size), positive_int("search_size", search_size)
    if images == "events":
        sequences = find_recorded_sequences(data_root, layout, split, T, names, interval, sensor)
    elif interval is None and sensor is None:
        sequences = find_sequences(data_root, layout, split, T, names)
    else:
        raise ValueError("`interval` and `sensor` are of images='events'; PNG files have been made with their own.")
    if split == "test":
        settings = dict(data_root=str(data_root), template_size=sizes[0], search_size=sizes[1], images=images)
        if sensor is not None:
            settings |= dict(sensor=list(sensor))
        return _TrackingSequences(sequences, sizes, results, settings | dict(interval=interval))
    return TrackingPairs(sequences, samples, *sizes, seed)


def _of_layout(layout: str, data_root: str, options: dict[str, Any]) -> Dataset:
    known = inspect.signature(tracking_dataset).parameters.keys() - {"data_root", "layout"}
    check_options(f"a data set of layout {layout!r}", options, known)
    return tracking_dataset(data_root, layout, **options)


@DATASETS.register_module(name="FE108Dataset")
def fe108_dataset(data_root: str, **options: Any) -> Dataset:
    """``TrackingDataset`` of the layout "fe108"."""
    return _of_layout("fe108", data_root, options)


@DATASETS.register_module(name="VisEventDataset")
def visevent_dataset(data_root: str, **options: Any) -> Dataset:
    """``TrackingDataset`` of the layout "visevent"."""
    return _of_layout("visevent", data_root, options)


@METRICS.register_module()
class TrackingMetric(BaseMetric):
    """AUC, PR, NPR, OP50 and OP75 in per cent, see ``tracking.box_metrics``; and the frames of a second.

    Args:
        protocol: "toolkit" or "ostrack".
        results: folder in which each sequence's boxes are written, beside that of the data set, also in place of those of an
            earlier test; ``None``: nowhere else.
        integers: write them cut to integers, as the published results are.
        **options: arguments of mmengine's ``BaseMetric``.

    Raises:
        ValueError: the folder has results of another program.
    """

    default_prefix = None

    def __init__(self, protocol: str = "toolkit", results: str | None = None, integers: bool = False, **options: Any):
        super().__init__(**options)
        one_of("protocol", protocol, PROTOCOLS)
        self.protocol, self.integers = protocol, flag("integers", integers)
        self.folder = _results_folder(results)
        if self.folder is not None:
            check_own_results(self.folder)

    def process(self, data_batch: Any, data_samples: Several[dict]) -> None:
        for sample in data_samples:
            own = None if self.folder is None else self.folder / f"{sample['name']}.txt"
            taken = sample["results"] if sample["seconds"] is None else None  # of an earlier test, which stays as it is
            for file in {own, sample["results"]} - {taken, None}:
                claim(file.parent, OWNER)
                write_boxes(file, sample["boxes"], self.integers)
            boxes = np.trunc(sample["boxes"]) if self.integers else sample["boxes"]
            one = curves(boxes, sample["labels"], sample.get("absent"), self.protocol)
            self.results.append((sample["name"], one, len(boxes), sample["seconds"]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        for name, one, _, _ in sorted(results, key=lambda r: r[0]):
            print_log(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in one.numbers().items()), logger="current")
        numbers = mean_curves([one for _, one, _, _ in results], self.protocol).numbers()
        timed = [(count, seconds) for _, _, count, seconds in results if seconds]
        if timed:
            numbers["frames_per_second"] = sum(n for n, _ in timed) / sum(s for _, s in timed)
        return numbers
