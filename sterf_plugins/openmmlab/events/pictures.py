"""Pictures of event images with detections, where mmdet's hook would look for an image file."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from torch import Tensor

from ...events.representations import on_white
from ...registry import HOOKS


@HOOKS.register_module()
class EventVisualizationHook(DetVisualizationHook):
    """mmdet's hook for the images of an ``EventDetDataset``: one picture for each labelled time, RECORDING-NUMBER.png.

    Events are grey on white, the darker the larger the sum of a pixel's channels, whatever the representation.

    Args: those of mmdet's hook.
    """

    def after_val_iter(self, runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw the first image of a batch, at every ``interval``-th iteration."""
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw(runner, "val_img", data_batch["inputs"][0], outputs[0], None, step)

    def after_test_iter(self, runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw all images of a batch, into ``test_out_dir`` if there is one."""
        if not self.draw:
            return
        for events, sample in zip(data_batch["inputs"], outputs, strict=True):
            file = None
            if self.test_out_dir is not None:
                name = f"{Path(sample.img_path).stem}-{sample.img_id}.png"
                file = Path(runner.work_dir, runner.timestamp, self.test_out_dir, name)
                file.parent.mkdir(parents=True, exist_ok=True)
            self._draw(runner, "test_img", events, sample, file, sample.img_id)

    def _draw(self, runner, name: str, events: Tensor, sample, file: Path | None, step: int) -> None:
        runner.visualizer.add_datasample(
            name, picture(events, sample.ori_shape), data_sample=sample, show=self.show, wait_time=self.wait_time,
            pred_score_thr=self.score_thr, out_file=None if file is None else str(file), step=step,
        )  # fmt: skip


def picture(events: Tensor, size: tuple[int, int]) -> np.ndarray:
    """An event image (C, H, W) as an RGB picture of this (height, width), uint8; white where there is no event."""
    grey = (255 * on_white(events.detach().cpu().float().numpy())).astype(np.uint8)
    return cv2.cvtColor(cv2.resize(grey, size[::-1], interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB)
