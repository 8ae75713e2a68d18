"""A feature pyramid for backbones of one stride, such as Spikformer and SDT-V1.

Paper: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet, arXiv:2203.16527), section 3.
"""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ...checks import positive_int
from ...registry import MODELS


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Strides 4, 8, 16, 32 from one map at stride 16: up by transposed convolutions, down by pooling.

    (B, in_channels, H, W), or a sequence of maps of which the last is used -> a tuple of ``num_outs`` maps
    (B, out_channels, H_i, W_i).

    Args:
        in_channels: channels of the backbone's map, a multiple of 4.
        out_channels: channels of every output map.
        num_outs: number of output maps, at least 4; each map after the fourth has half the size of the one before.
        norm_cfg: norm behind each convolution; by default GN with 32 groups, which needs channels in multiples of 32.
        act_cfg: activation between the two transposed convolutions; ``dict(type='sterf_plugins.SpikingAct')`` spikes.
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: ``in_channels`` is not a multiple of 4, or fewer than 4 levels are asked for.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 4,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if positive_int("in_channels", in_channels) % 4:
            raise ValueError(f"`in_channels` is {in_channels}; it must be a multiple of 4.")
        if positive_int("num_outs", num_outs) < 4:
            raise ValueError(f"`num_outs` is {num_outs}; it must be at least 4: strides 4, 8, 16, 32.")
        norm_cfg = dict(type="GN", num_groups=32) if norm_cfg is None else norm_cfg
        act_cfg = dict(type="GELU") if act_cfg is None else act_cfg
        self.num_outs = num_outs
        half, quarter = in_channels // 2, in_channels // 4
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, 2, 2),
                    build_norm_layer(norm_cfg, half)[1],
                    build_activation_layer(act_cfg),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
                nn.ConvTranspose2d(in_channels, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.outs = nn.ModuleList(
            nn.Sequential(
                ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None),
                ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None),
            )
            for width in (quarter, half, in_channels, in_channels)
        )

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        x = inputs if isinstance(inputs, Tensor) else inputs[-1]
        maps = [out(scale(x)) for scale, out in zip(self.scales, self.outs, strict=True)]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))
        return tuple(maps)
