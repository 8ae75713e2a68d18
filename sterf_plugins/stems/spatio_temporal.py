"""The covariant stem in space and time."""

import torch
from torch import Tensor, nn

from ..checks import one_of, positive_int
from ..layers.batch_norm import BatchNorm2d
from ..layers.over_time import over_time
from .fields.bank import RFBank
from .fields.covariant_conv import CovariantRFConv2d
from .fields.temporal import TemporalRF


class CovariantSTStem(nn.Module):
    """Spatial receptive fields, a norm, temporal receptive fields and an activation.

    ``forward(x, state=None) -> (y, state)`` takes x (T, B, in_ch, H, W) and gives y (T, B, C', H', W'). C' is
    ``out_ch``, times the number of scales if ``temporal`` stacks them. If ``temporal`` has ``combine="last"``, y is
    (B, C', H', W').

    A sequence that is fed in pieces, with the state passed on, gives the same as the whole sequence.

    Leaky integrators commute with a convolution. If only the last step is needed, nothing stands between the two and
    no state is passed, the input is filtered in time first, so that only one map per scale is convolved.

    Args:
        in_ch: input channels.
        out_ch: output channels of the spatial fields.
        bank: spatial fields; ``None``: the default of ``CovariantRFConv2d``.
        temporal: temporal fields; ``None``: ``TemporalRF((2.0, 4.0))``.
        stride: stride of the convolution.
        norm: "bn" or ``None``.
        act: "relu" or ``None``.
        static_T: number of steps for which an image (B, in_ch, H, W) is held; ``None``: images raise an error.
        **options: further arguments of ``CovariantRFConv2d``.

    Raises:
        ValueError, TypeError: the input has no time axis, or ``CovariantRFConv2d`` or ``TemporalRF`` refuses
            an argument or an input.

    Source: Nat. Commun. 16:8231 (2025).
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        bank: RFBank | None = None,
        temporal: TemporalRF | None = None,
        stride: int = 1,
        norm: str | None = "bn",
        act: str | None = "relu",
        static_T: int | None = None,
        **options,
    ):
        super().__init__()
        one_of("norm", norm, ("bn", None))
        one_of("act", act, ("relu", None))
        self.stride = stride
        self.static_T = None if static_T is None else positive_int("static_T", static_T)
        self.space = CovariantRFConv2d(in_ch, out_ch, bank, stride, **options)
        self.norm = BatchNorm2d(self.space.out_ch) if norm else None
        self.time = TemporalRF((2.0, 4.0)) if temporal is None else temporal
        if not isinstance(self.time, TemporalRF):
            raise TypeError(f"`temporal` is {temporal!r} ({type(temporal).__name__}); it must be a TemporalRF.")
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim == 4 and self.static_T is not None:
            x = x.expand(self.static_T, *x.shape)
        if x.ndim != 5:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; it must be (T, B, C, H, W). For images (B, C, H, W) that are held "
                f"for T steps, build the stem with static_T=T."
            )
        if self._time_first(state):
            return self._last(x)
        y = self.space(x)
        if self.norm is not None:
            y = over_time(self.norm, y)
        y, state = self.time(y, state)
        return self.act(y), state

    def _time_first(self, state: Tensor | None) -> bool:
        """Whether filtering in time before space gives the same output, which is then the cheaper order."""
        t = self.time
        commutes = self.norm is None and t.kind == "li" and not t.channels and self.space.bias is None
        return commutes and t.combine == "last" and state is None

    def _last(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output (B, C', H', W') of the last step, filtered in time before space; and the state behind it, by scale."""
        last = self.time(x)[0].unflatten(1, (self.time.scales, -1)).transpose(0, 1)
        y = self.space(last)
        state = y if y.dtype == torch.float64 else y.float()  # as `TemporalRF` keeps it
        return self.act(y.transpose(0, 1).flatten(1, 2)), state
