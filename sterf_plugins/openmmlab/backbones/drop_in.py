"""Any timm model in a stock backbone's place: small adapters give the outputs that the stock neck and heads take."""

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F

from ...firing import neuron_layers
from ...layers import IntegerSpike
from ...registry import MODELS
from .timm_backbone import TIMMBackbone, feature_levels


class Adapter(nn.Module):
    """One output of a stock backbone from some levels of another: norm(sum over levels of resize(conv(spike(level)))).

    Args:
        sources: channels and stride of each level that the output is made of.
        channels: channels of the output.
        stride: stride of the output. A coarser one than the level's is reached by the convolution, a finer one by
            interpolation.
        rounding: "ceil" or "floor": how sizes of images that are no multiples of the stride are divided.
        kind: "map" for (B, channels, H, W), or "vector" for its mean, (B, channels).
        spiking: put integer spikes in front of the convolutions.
        norm_cfg: the norm.
    """

    def __init__(
        self,
        sources: Sequence[tuple[int, int]],
        channels: int,
        stride: int,
        rounding: str = "ceil",
        kind: str = "map",
        spiking: bool = False,
        norm_cfg: Mapping | None = None,
    ):
        super().__init__()
        self.divide: Callable[[float], int] = {"ceil": math.ceil, "floor": math.floor}[rounding]
        self.stride, self.kind = stride, kind
        self.spike = IntegerSpike() if spiking else nn.Identity()
        self.convs = nn.ModuleList(_convolution(width, channels, max(1, stride // step)) for width, step in sources)
        self.norm = build_norm_layer(dict(norm_cfg or {"type": "BN"}), channels)[1]

    def forward(self, levels: Sequence[Tensor], image_size: Sequence[int]) -> Tensor:
        size = [max(1, self.divide(side / self.stride)) for side in image_size]
        y = self.norm(sum(_resize(conv(self.spike(x)), size) for conv, x in zip(self.convs, levels, strict=True)))
        return y.mean((2, 3)) if self.kind == "vector" else y


def _convolution(in_channels: int, channels: int, step: int) -> nn.Conv2d:
    """A 1x1 convolution, or one whose windows overlap by a pixel if it makes the map ``step`` times smaller."""
    kernel_size = step // 2 * 2 + 1
    return nn.Conv2d(in_channels, channels, kernel_size, stride=step, padding=kernel_size // 2, bias=False)


def _resize(x: Tensor, size: list[int]) -> Tensor:
    return x if list(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear")


def choose_levels(strides: Sequence[int], stride: int, depth: int = 0) -> list[int]:
    """Levels of a model of which an output is made: from the one nearest to ``stride`` to the one nearest to ``depth``.

    Of several levels with one stride it is the last, as in every feature pyramid.

    Args:
        strides: strides of the model's levels.
        stride: stride of the output.
        depth: coarsest stride that the output was made from, if it is more than ``stride``.
    """
    last = {step: index for index, step in enumerate(strides)}
    finest, coarsest = (
        min(last, key=lambda step: abs(math.log2(step / wanted))) for wanted in (stride, max(stride, depth))
    )
    return [index for step, index in sorted(last.items()) if finest <= step <= coarsest]


@MODELS.register_module()
class DropInBackbone(TIMMBackbone):
    """A timm model behind adapters that give exactly the outputs of a stock backbone, for its neck and heads.

    ``--backbone NAME --interface stock`` reads the outputs from the stock backbone and writes them into the config.
    (B, C, H, W), or (T, B, C, H, W) for a model that takes it, -> maps (B, C_i, H_i, W_i), put together as ``outputs`` says.

    Args:
        model_name: any name of ``timm.list_models()``, this package's and other plugins' included.
        levels: the outputs: dicts with ``channels``, ``stride`` and, if they are not the defaults, ``depth`` (an output takes
            the model's levels from the one nearest to ``stride`` to the one nearest to ``depth``; ``stride`` by default),
            ``rounding`` ("ceil" or "floor" for sizes that are no multiples of the stride) and ``kind`` ("map" or "vector").
        outputs: how they are put together in training: an index into ``levels``, "image" for the input, or a list of such;
            all levels by default.
        eval_outputs: the same in evaluation; as in training by default.
        copies: how often each output repeats the batch in training, as a backbone with several branches does.
        eval_copies: the same in evaluation.
        attributes: attributes that the detector reads from its backbone, such as ``num_branch``.
        norm_cfg: norm of the adapters, BN by default.
        **kwargs: passed to ``TIMMBackbone``. ``norm_eval`` leaves the adapters' norms alone.

    Raises:
        ValueError: an argument of ``TIMMBackbone`` does not fit; the message says what is allowed.
    """

    def __init__(
        self,
        model_name: str,
        levels: Sequence[Mapping],
        outputs: Any = None,
        eval_outputs: Any = None,
        copies: int = 1,
        eval_copies: int = 1,
        attributes: Mapping | None = None,
        norm_cfg: Mapping | None = None,
        **kwargs,
    ):
        options = {name: value for name, value in kwargs.items() if name not in signature(TIMMBackbone).parameters}
        strides = [int(level["reduction"]) for level in feature_levels(model_name, **options)]
        chosen = [choose_levels(strides, level["stride"], level.get("depth", 0)) for level in levels]
        used = sorted({index for indices in chosen for index in indices})
        super().__init__(model_name, out_indices=used, **kwargs)
        self.outputs = list(range(len(levels))) if outputs is None else outputs
        self.eval_outputs = self.outputs if eval_outputs is None else eval_outputs
        self.copies, self.eval_copies = copies, eval_copies
        for name, value in (attributes or {}).items():
            setattr(self, name, value)
        spiking = bool(neuron_layers(self.timm_model))
        shapes = list(zip(self.out_channels, self.out_strides, strict=True))
        self._sources = [[used.index(i) for i in indices] for indices in chosen]
        self.adapters = nn.ModuleList(
            Adapter(
                [shapes[i] for i in sources],
                **{name: value for name, value in level.items() if name != "depth"},
                spiking=spiking,
                norm_cfg=norm_cfg,
            )
            for sources, level in zip(self._sources, levels, strict=True)
        )

    def forward(self, x: Tensor) -> Any:
        maps = super().forward(x)
        outputs, copies = (self.outputs, self.copies) if self.training else (self.eval_outputs, self.eval_copies)

        def output(entry: Any) -> Any:
            if entry == "image":
                return x
            if not isinstance(entry, int):
                return tuple(output(part) for part in entry)
            y = self.adapters[entry]([maps[i] for i in self._sources[entry]], x.shape[-2:])
            return y.repeat(copies, *[1] * (y.ndim - 1)) if copies > 1 else y

        return output(outputs)

    def train(self, mode: bool = True):
        """As ``TIMMBackbone.train``, but ``norm_eval`` leaves the adapters' norms alone, which nothing has trained."""
        super().train(mode)
        if hasattr(self, "adapters"):
            self.adapters.train(mode)
        return self
