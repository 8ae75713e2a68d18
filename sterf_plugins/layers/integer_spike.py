"""Integer spikes as a module."""

import torch
from torch import Tensor

from ..checks import positive_int
from ..functional import integer_fire
from ..functional.integer_fire import check_norm
from .described import Described

torch.fx.wrap("integer_fire")  # one step of a traced model: torch.fx cannot look into an autograd function


class IntegerSpike(Described):
    """Memoryless I-LIF neuron: ``round(clamp(x, 0, levels)) / norm`` (see ``functional.integer_fire``).

    Any shape in, the same shape out. The same in train and eval; the surrogate gradient is always on.

    Args:
        levels: D, the largest number of spikes.
        norm: divisor of the number of spikes; ``None`` means ``levels``, so that the output lies in [0, 1].
        eval_levels: another D in eval mode, for parity with a release that trains and evaluates differently.

    Raises:
        TypeError, ValueError: a number of levels is not an int >= 1, or ``norm`` is not positive.
    """

    is_spiking = True  # its outputs are counted by ``sterf_plugins.firing``

    def __init__(self, levels: int = 4, norm: float | None = None, eval_levels: int | None = None):
        super().__init__()
        self.levels = positive_int("levels", levels)
        self.norm = self.levels if norm is None else norm
        check_norm(self.norm)
        self.eval_levels = None if eval_levels is None else positive_int("eval_levels", eval_levels)

    def forward(self, x: Tensor) -> Tensor:
        return integer_fire(x, self.levels_now, self.norm)

    @property
    def levels_now(self) -> int:
        """D in the present mode, training or evaluation."""
        return self.levels if self.training or self.eval_levels is None else self.eval_levels

    def description(self) -> dict[str, float | None]:
        """The levels, and what their number is divided by if that is another number."""
        norm = None if self.norm == self.levels else float(self.norm)
        return dict(levels=self.levels, norm=norm, eval_levels=self.eval_levels)

    def extra_repr(self) -> str:
        other = "" if self.eval_levels is None else f", eval_levels={self.eval_levels}"
        return f"levels={self.levels}, norm={self.norm}{other}"
