"""Events of a window as an image that every transform of mmcv and mmdet takes."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from ...checks import one_of, positive_int
from ...events import REPRESENTATIONS, Events, equal_times
from ...events.random_access import IndexedRecording
from ...events.representations import channels_of
from ...registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadEvents(BaseTransform):
    """The events of an ``EventDetDataset``'s window as a float32 image (H, W, parts * C).

    The channels of the first part come first. ``EventDataPreprocessor(time_steps=parts)`` makes a time axis of the parts.
    The trajectories of "gtp" remember the window before, which is as long.

    Args:
        representation: "histogram", "voxel_grid", "time_surface" or "gtp"; see ``events.representations``.
        parts: number of equally long parts of the window, each of which has an image of C channels.
        **options: of the representation, such as ``bins`` or ``tau``.

    Raises:
        ValueError, TypeError: an argument is out of range.
    """

    def __init__(self, representation: str = "histogram", parts: int = 1, **options: Any):
        one_of("representation", representation, REPRESENTATIONS)
        self.representation, self.parts, self.options = representation, positive_int("parts", parts), options
        self.channels = self.parts * channels_of(representation, **options)

    def transform(self, results: dict) -> dict:
        """Add ``img``, its size and scale to the results.

        Raises:
            ValueError: they are not of an ``EventDetDataset``.
        """
        if "recording" not in results:
            raise ValueError(
                f"LoadEvents takes the windows of an EventDetDataset, and not the file {results.get('img_path')}; for pictures of "
                f"detections: sterf test CONFIG CHECKPOINT --show-dir DIR."
            )
        recording = IndexedRecording(**results["recording"])
        events = recording.events(*results["event_range"])
        start, stop = results["window"]
        start, parts = min(start, stop - self.parts), self.parts  # a part has a microsecond or more
        if self.representation == "gtp":  # whose trajectories are of the parts before, here also of the window before
            earlier = recording.number_before([2 * start - stop, start])
            events = Events.joined([recording.events(earlier[0], min(earlier[1], results["event_range"][0])), events])
            start, parts = 2 * start - stop, 2 * parts
        times = equal_times(start, stop, parts)
        images = REPRESENTATIONS[self.representation](events, recording.size, times, **self.options)[-self.parts :]
        results["img"] = np.ascontiguousarray(images.reshape(-1, *recording.size).transpose(1, 2, 0))
        results["img_shape"] = results["ori_shape"] = recording.size
        results["scale_factor"] = (1.0, 1.0)  # until a transform resizes the image
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.representation!r}, parts={self.parts}, {self.options})"
