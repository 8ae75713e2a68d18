"""What the backbones share: stages in a row, a feature level after each stage, and an optional linear head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import entries, is_whole, positive_int
from ..layers.described import Described
from .recompute import PRODUCTS, recomputed


class Blocks(nn.Sequential):
    """Modules one after another; with ``recompute``, each one's norms and spikes are computed again backward."""

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        for block in self:
            x = recomputed(block, x, block, PRODUCTS) if recompute else block(x)
        return x


class Stage(nn.Module):
    """A stem or downsampling, then blocks that keep the size.

    Takes (B, C, H, W), or (T, B, C, H, W) in models with a time axis, and returns the stage's channels at its stride.

    Args:
        downsample: the stem in the first stage, a downsampling or ``nn.Identity`` in the others.
        blocks: modules that run one after another on the result.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = Blocks(*blocks)

    def forward(self, x: Tensor, recompute: str = "nothing") -> Tensor:
        """Run the stage.

        Args:
            x: output of the stage before, or the prepared input of the model.
            recompute: what the backward pass computes again instead of keeping it in memory. "nothing": every tensor
                that it needs is kept. "cheap": only the results of convolutions and matrix products are kept; norms
                and spikes are computed again, one block at a time. "everything": only ``x`` is kept.
        """
        return _run_stage(self, x, recompute)

    def run(self, x: Tensor) -> Tensor:
        """The stage as a function of its input."""
        return self.blocks(self.downsample(x))

    def run_blocks(self, x: Tensor, recompute: str = "nothing") -> Tensor:
        """Run the blocks alone on what the downsampling gave; ``recompute`` as in ``forward``."""
        if recompute == "nothing" or not torch.is_grad_enabled():
            return self.blocks(x)
        return recomputed(self.blocks, x, self.blocks) if recompute == "everything" else self.blocks(x, recompute=True)


@torch.fx.wrap  # one step of a traced model: spikes and norms look at values and at what is trained
def _run_stage(stage: Stage, x: Tensor, recompute: str) -> Tensor:
    if recompute == "nothing" or not torch.is_grad_enabled():
        return stage.run(x)
    if recompute == "everything":
        return recomputed(stage.run, x, stage)
    return stage.blocks(recomputed(stage.downsample, x, stage.downsample, PRODUCTS), recompute=True)


class StagedBackbone(Described):
    """Stages in a row; feature level i is the output of the submodule ``stages.i``.

    Subclasses define three steps: ``enter`` brings an input into the form that the first stage takes, ``leave`` turns a
    stage's output into the feature map that a user gets, and ``classify`` turns the last stage's output into logits.

    Args:
        stages: modules that are called as ``stage(x, recompute)`` one after another, such as ``Stage``.
        dims: number of channels after each stage.
        strides: pixels of the input per pixel of the map after each stage, in height and in width.
        in_chans: number of image channels.
        out_indices: feature levels to return when there is no classifier, in ascending order; ``None`` for all.

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
        self.out_indices = _feature_levels(out_indices, self.stage_strides)
        self.grad_checkpointing = False
        self.memory_efficient = False
        self.num_classes = 0
        self.head: nn.Module = nn.Identity()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the feature levels in ``out_indices``."""
        return tuple(self.stage_dims[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """True strides of the feature levels in ``out_indices``."""
        return tuple(self.stage_strides[i] for i in self.out_indices)

    @property
    def recompute(self) -> str:
        """What the backward pass computes again, as ``Stage.forward`` takes it."""
        return "everything" if self.grad_checkpointing else "cheap" if self.memory_efficient else "nothing"

    def set_num_classes(self, num_classes: int) -> None:
        """Put a new linear head of this width in place of the old one; 0 removes the head.

        Raises:
            TypeError, ValueError: ``num_classes`` is not an int >= 0.
        """
        if num_classes != 0 or isinstance(num_classes, bool):
            positive_int("num_classes", num_classes, "an int >= 1, or 0 for none")
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
        """Turn a stage's output into the feature map that a user gets; unchanged unless a subclass differs."""
        return x

    def undo_leave(self, x: Tensor) -> Tensor:
        """Turn a feature map that ``leave`` gave back into what ``classify`` takes; unchanged unless a subclass differs."""
        return x

    def pool_pixels(self, x: Tensor) -> Tensor:
        """The mean over the pixels of a feature map, (..., H, W) -> (...), unless a subclass differs."""
        return x.mean((-2, -1))

    def classify(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) from the last stage's output."""
        raise NotImplementedError

    def __prepare_scriptable__(self) -> "StagedBackbone":
        """Called by ``torch.jit.script``, which cannot read spikes, whose gradients are functions of our own."""
        raise TypeError(
            f"torch.jit.script cannot compile a {type(self).__name__}: its spikes are autograd functions. Use "
            f"torch.jit.trace inside of torch.no_grad(), torch.export or torch.compile."
        )

    def run_stages(self, x: Tensor, last: int | None = None) -> list[Tensor]:
        """Outputs of stages 0 to ``last`` (all by default)."""
        x = self.enter(x)
        outputs = []
        for stage in self.stages[: None if last is None else last + 1]:
            x = stage(x, self.recompute)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Logits (B, num_classes), or without a classifier a tuple of the feature maps in ``out_indices``."""
        if self.num_classes:
            return self.classify(self.run_stages(x)[-1])
        outputs = self.run_stages(x, max(self.out_indices))
        return tuple(self.leave(outputs[i]) for i in self.out_indices)


def save_memory(model: nn.Module) -> bool:
    """Set ``memory_efficient`` of the backbones of this package in a model; returns whether there is one."""
    backbones = [module for module in model.modules() if isinstance(module, StagedBackbone)]
    for backbone in backbones:
        backbone.memory_efficient = True
    return bool(backbones)


def _feature_levels(out_indices: Sequence[int] | None, strides: Sequence[int]) -> tuple[int, ...]:
    """Check ``out_indices`` and return them as a tuple; ``None`` stands for every stage."""
    chosen = tuple(range(len(strides))) if out_indices is None else entries("out_indices", out_indices)
    allowed = range(len(strides))
    if not chosen or any(i not in allowed or not is_whole(i) for i in chosen) or list(chosen) != sorted(set(chosen)):
        raise ValueError(
            f"`out_indices` is {chosen}; give ascending feature levels out of {', '.join(map(str, allowed))} "
            f"(strides {', '.join(map(str, strides))})."
        )
    return chosen
