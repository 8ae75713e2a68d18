"""Images of events with a time axis, for backbones that have one."""

from typing import Any

from mmdet.models import DetDataPreprocessor

from ..checks import positive_int
from ..registry import MODELS


@MODELS.register_module()
class EventDataPreprocessor(DetDataPreprocessor):
    """mmdet's preprocessor, whose images (B, T * C, H, W) become sequences (T, B, C, H, W).

    Args:
        time_steps: T, the ``parts`` of ``LoadEvents``; 1 leaves images as they are, (B, C, H, W).
        **options: of ``DetDataPreprocessor``, such as ``pad_size_divisor``. Without ``mean`` and ``std`` the numbers stay.
    """

    def __init__(self, time_steps: int = 1, **options: Any):
        super().__init__(**options)
        self.time_steps = positive_int("time_steps", time_steps)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Pad and stack as mmdet does, then split the channels into steps.

        Raises:
            ValueError: they cannot be split into ``time_steps`` equal parts.
        """
        data = super().forward(data, training)
        images = data["inputs"]
        if self.time_steps == 1:
            return data
        if images.shape[1] % self.time_steps:
            raise ValueError(
                f"images have {images.shape[1]} channels, which are no {self.time_steps} equal time steps; `parts` of "
                f"LoadEvents and `time_steps` of EventDataPreprocessor must be equal."
            )
        return {**data, "inputs": images.unflatten(1, (self.time_steps, -1)).transpose(0, 1)}
