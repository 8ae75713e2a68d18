"""mmdet's COCO metric with Prophesee's filter of boxes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric

from ...checks import finite_number, flag, one_of
from ...registry import METRICS

# The rules of Prophesee's toolbox for automotive data: 304 x 240 pixels (GEN1), and 1280 x 720 (1 megapixel).
BOX_FILTERS: Mapping[str, dict[str, float]] = {
    "gen1": dict(skip_time=500_000, min_diagonal=30, min_side=10),
    "1mpx": dict(skip_time=500_000, min_diagonal=60, min_side=20),
}


def kept(times: Any, boxes: np.ndarray, skip_time: float, min_diagonal: float, min_side: float) -> np.ndarray:
    """Which boxes (N, 4), as x1, y1, x2, y2, Prophesee's filter keeps.

    These are the ones after ``skip_time``, with a diagonal and both sides of at least these lengths.
    """
    # Sides of labels as they were written, without what was rounded where the corner was added and is subtracted.
    width, height = (boxes[:, 2:] - boxes[:, :2]).round(6).T
    large = (width**2 + height**2 >= min_diagonal**2) & (width >= min_side) & (height >= min_side)
    return large & (np.asarray(times) > skip_time)


@METRICS.register_module()
class EventCocoMetric(CocoMetric):
    """COCO's AP of boxes of an ``EventDetDataset``, which also brings the true boxes.

    ``PackDetInputs`` needs the meta keys "instances" and "time".

    Args:
        box_filter: "gen1" or "1mpx" for the rules of Prophesee's toolbox, a dict of ``skip_time`` in microseconds,
            ``min_diagonal`` and ``min_side`` in pixels, or ``None`` for no filter. It takes small boxes, and all of times up to
            ``skip_time``, out of predictions and truth alike; times without a true box after it do not count, as in the
            toolbox.
        from_first_event: times count from the first event of a recording, not from 0, as the toolbox takes for granted.
        **options: of mmdet's ``CocoMetric``, without ``ann_file``.

    Raises:
        TypeError, ValueError: there is no such filter, an ``ann_file``, or masks are to be measured.
    """

    def __init__(
        self, box_filter: str | Mapping[str, float] | None = None, from_first_event: bool = False, **options: Any
    ):
        if options.get("ann_file"):
            raise ValueError("`ann_file` is not needed: the true boxes come from EventDetDataset; leave it out.")
        super().__init__(**options)
        if isinstance(box_filter, str):
            one_of("box_filter", box_filter, BOX_FILTERS)
            box_filter = BOX_FILTERS[box_filter]
        unknown = set(box_filter or ()) - set(BOX_FILTERS["gen1"])
        if unknown:
            raise ValueError(
                f"`box_filter` has {', '.join(sorted(unknown))}; it takes {', '.join(BOX_FILTERS['gen1'])}."
            )
        for name, limit in (box_filter or {}).items():
            finite_number(f"box_filter[{name!r}]", limit)
        if "segm" in self.metrics:
            raise ValueError("`metric` has 'segm', and labels of recordings have no masks; give 'bbox'.")
        rules = dict(skip_time=-np.inf, min_diagonal=0, min_side=0)
        self.rules = None if box_filter is None else {**rules, **box_filter}
        self.from_first_event = flag("from_first_event", from_first_event)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions and true boxes of a batch that pass the filter; an image without a true box does not count."""
        for sample in data_samples:
            missing = {"instances", "time"} - sample.keys()
            if missing:
                raise ValueError(
                    f"PackDetInputs left out {', '.join(sorted(missing))}: add the names to its meta_keys in the test pipeline."
                )
        if self.rules is not None:
            data_samples = [self._filtered(sample) for sample in data_samples]
        before = len(self.results)
        super().process(data_batch, data_samples)
        # Those without a box are left out later: several processes together cut what a sampler has repeated by its place.
        for (truth, _), sample in zip(self.results[before:], data_samples, strict=True):
            truth["counts"] = self.rules is None or bool(sample["instances"])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """COCO's numbers of what is left; with ``format_only`` the files of all images, and none.

        Raises:
            ValueError: no image is, or no true box; or two images have the same id.
        """
        ids = Counter(truth["img_id"] for truth, _ in results)
        twice = next((image for image, count in ids.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"two images have the id {twice}, so that boxes of one would count in the other: EventDetDatasets that are "
                f"joined, as by ConcatDataset, must have other ids; test each on its own, or put all labels into one."
            )
        if self.format_only:
            return super().compute_metrics(results)
        results = [result for result in results if result[0]["counts"]]
        # mmdet keeps the true boxes of the first evaluation, and the results of later ones have none.
        if not any(gt.get("anns", True) for gt, _ in results):
            raise ValueError(
                f"there are no true boxes in {len(results)} images to measure with"
                + (f": `box_filter` {self.rules} leaves none. Give smaller limits, or None." if self.rules else ".")
            )
        return super().compute_metrics(results)

    def _time(self, sample: dict) -> int:
        time, first = sample["time"]
        return time - first if self.from_first_event else time

    def _filtered(self, sample: dict) -> dict:
        """A sample without the boxes that the filter takes out."""
        assert self.rules is not None
        time, predicted = self._time(sample), sample["pred_instances"]
        keep = kept(time, predicted["bboxes"].cpu().numpy(), **self.rules)
        true = np.array([i["bbox"] for i in sample["instances"]], np.float64).reshape(-1, 4)
        return {
            **sample,
            "pred_instances": {name: values[keep] for name, values in predicted.items()},
            "instances": [
                i for i, good in zip(sample["instances"], kept(time, true, **self.rules), strict=True) if good
            ],
        }
