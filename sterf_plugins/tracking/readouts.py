"""Readouts of coordinates from maps: ``dsnt`` and ``dsntli`` of Nat. Commun. 16:8231 (2025)."""

import torch
from torch import Tensor, nn

from ..checks import check_steps, number, one_of
from ..functional.leaky_integrator import leaky_integrator
from .soft_argmax import RAMPS, soft_argmax


class SoftArgmax2d(nn.Module):
    """Softmax over each map, then the mean of its coordinates.

    ``forward((..., H, W)) -> (coordinates (..., 2) as (row, column) in [-1, 1], probabilities (..., H, W))``.

    Args:
        ramp: "linspace": the first and the last cell are at -1 and 1; "centre": [-1, 1] is divided into equal cells,
            which are at their centres.

    Raises:
        ValueError: ``ramp`` is neither.

    Source: Nat. Commun. 16:8231 (2025); Nibali et al., arXiv:1801.07372.
    """

    def __init__(self, ramp: str = "linspace"):
        super().__init__()
        one_of("ramp", ramp, RAMPS)
        self.ramp = ramp

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = maps.flatten(-2).softmax(-1).view_as(maps)
        return soft_argmax(probabilities, self.ramp), probabilities

    def extra_repr(self) -> str:
        return f"ramp={self.ramp}"


class LeakyReadout(nn.Module):
    """Smooth coordinates c over time by s <- (1 - k) s + c, with one learned k for rows and one for columns.

    ``forward((T, ..., 2), state=None) -> ((T, ..., 2), state (..., 2))``.

    Args:
        k: initial value of both; for a constant input c the state approaches c / k.

    Raises:
        TypeError, ValueError: ``k`` is outside (0, 2), where the recursion diverges; T is 0; the state belongs to another batch.

    Source: Nat. Commun. 16:8231 (2025).
    """

    def __init__(self, k: float = 0.9):
        super().__init__()
        k = number("k", k, lambda value: 0 < value < 2, "a number in (0, 2)")
        self.k = nn.Parameter(torch.full((2,), k))

    def forward(self, coordinates: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_steps("coordinates", coordinates)
        if state is None:
            state = torch.zeros_like(coordinates[0])
        if state.shape != coordinates.shape[1:]:
            raise ValueError(
                f"`state` is {tuple(state.shape)}, an input {tuple(coordinates.shape)} needs "
                f"{tuple(coordinates.shape[1:])}; pass state=None to start anew."
            )
        y = leaky_integrator(coordinates, 1 - self.k.to(coordinates.dtype), state, "peak", "loop")
        return y, y[-1]
