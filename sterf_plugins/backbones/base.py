"""What the backbones share: stages in a row, a feature point after each, a linear head on request."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import positive_int
from .recompute import PRODUCTS, recomputed


class Stage(nn.Module):
    """A stem or downsampling, then blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor, recompute: str = "nothing") -> Tensor:
        """The stage's output; ``recompute`` says what the backward pass computes again.

        "nothing": all that it needs is kept. "cheap": results of convolutions and matrix products are kept, norms and
        spikes of one block after the other are computed again. "everything": only the stage's input is kept.
        """
        if recompute == "nothing" or not torch.is_grad_enabled():
            return self._run(x)
        if recompute == "everything":
            return recomputed(self._run, x, self)
        for part in (self.downsample, *self.blocks):
            x = recomputed(part, x, part, PRODUCTS)
        return x

    def _run(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class StagedBackbone(nn.Module):
    """Stages in a row; feature point i is the output of the submodule ``stages.i``.

    Subclasses say how an input enters (``enter``), what a stage's output is outside (``leave``) and how the last one
    is classified (``classify``).

    Args:
        stages: the stages.
        dims: channels after each stage.
        strides: true stride after each stage.
        in_chans: image channels.
        out_indices: feature points to return when there is no classifier.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        dims: Sequence[int],
        strides: Sequence[int],
        in_chans: int,
        out_indices: Sequence[int] | None,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.stage_dims, self.stage_strides = tuple(dims), tuple(strides)
        self.in_chans = in_chans
        self.out_indices = _feature_points(out_indices, self.stage_strides)
        self.grad_checkpointing = False
        self.memory_efficient = False
        self.num_classes = 0
        self.head: nn.Module = nn.Identity()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the feature points in ``out_indices``."""
        return tuple(self.stage_dims[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """True strides of the feature points in ``out_indices``."""
        return tuple(self.stage_strides[i] for i in self.out_indices)

    def set_num_classes(self, num_classes: int) -> None:
        """Replace the linear head; 0 removes it."""
        if num_classes:
            positive_int("num_classes", num_classes)
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            like = next(self.stages.parameters())
            self.head = nn.Linear(self.stage_dims[-1], num_classes, device=like.device, dtype=like.dtype)
            self.head.train(self.training)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def enter(self, x: Tensor) -> Tensor:
        """Check an input and bring it into the form that the first stage takes."""
        raise NotImplementedError

    def leave(self, x: Tensor) -> Tensor:
        """A stage's output as a feature map."""
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Logits from the last stage's output."""
        raise NotImplementedError

    def run_stages(self, x: Tensor, last: int | None = None) -> list[Tensor]:
        """Outputs of stages 0 to ``last`` (all by default)."""
        x = self.enter(x)
        recompute = "everything" if self.grad_checkpointing else "cheap" if self.memory_efficient else "nothing"
        outputs = []
        for stage in self.stages[: None if last is None else last + 1]:
            x = stage(x, recompute)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Logits (B, num_classes), or without a classifier a tuple of the feature maps in ``out_indices``."""
        if self.num_classes:
            return self.classify(self.run_stages(x)[-1])
        outputs = self.run_stages(x, max(self.out_indices))
        return tuple(self.leave(outputs[i]) for i in self.out_indices)


def _feature_points(out_indices: Sequence[int] | None, strides: Sequence[int]) -> tuple[int, ...]:
    points = tuple(range(len(strides))) if out_indices is None else tuple(out_indices)
    allowed = range(len(strides))
    if not points or any(i not in allowed for i in points) or list(points) != sorted(set(points)):
        raise ValueError(
            f"`out_indices` is {points}; give ascending feature points out of {', '.join(map(str, allowed))} "
            f"(strides {', '.join(map(str, strides))})."
        )
    return points
