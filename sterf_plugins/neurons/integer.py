"""Integer spikes as a module."""

import torch
from torch import Tensor, nn

from ..batch_norm import BatchNorm2d
from ..checks import positive_int
from ..functional import can_norm_fire, integer_fire, norm_fire


class IntegerSpike(nn.Module):
    """Memoryless I-LIF neuron: ``round(clamp(x, 0, levels)) / norm`` (see ``functional.integer_fire``).

    Any shape in, the same shape out. The same in train and eval; the surrogate gradient is always on.

    Args:
        levels: D, the largest number of spikes.
        norm: divisor of the count; ``None`` means ``levels``.
        eval_levels: another D in eval mode, for parity with a release that trains and evaluates differently.

    Raises:
        TypeError, ValueError: a number of levels is not an int >= 1, or ``norm`` is not positive.

    Attributes:
        fuse_norm: whether ``after`` may compute a norm and the spikes in one pass; see ``fuse_norms``.
    """

    fuse_norm = False

    def __init__(self, levels: int = 4, norm: float | None = None, eval_levels: int | None = None):
        super().__init__()
        self.levels = positive_int("levels", levels)
        if norm is not None and norm <= 0:
            raise ValueError(f"`norm` is {norm!r}; it must be > 0, or None for `levels`.")
        self.norm = self.levels if norm is None else norm
        self.eval_levels = None if eval_levels is None else positive_int("eval_levels", eval_levels)

    def forward(self, x: Tensor) -> Tensor:
        return integer_fire(x, self._levels(), self.norm)

    def after(self, layer: nn.Module, x: Tensor) -> Tensor:
        """``self(layer(x))`` for a BatchNorm, or for layers in a row that end in one."""
        if not self.fuse_norm or torch.compiler.is_compiling():
            return self(layer(x))
        *front, norm = _in_a_row(layer)
        ours = type(norm) in (nn.BatchNorm2d, BatchNorm2d) and type(self).forward is IntegerSpike.forward
        if not ours or not can_norm_fire(x, norm) or any(_watched(module) for module in (self, layer, norm)):
            return self(layer(x))
        for module in front:
            x = module(x)
        return norm_fire(x, norm, self._levels(), self.norm)

    def _levels(self) -> int:
        return self.levels if self.training or self.eval_levels is None else self.eval_levels

    def extra_repr(self) -> str:
        other = "" if self.eval_levels is None else f", eval_levels={self.eval_levels}"
        return f"levels={self.levels}, norm={self.norm}{other}"


def spikes_after(spike: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """``spike(layer(x))`` by ``IntegerSpike.after``; for any other module in the place of spikes, just that."""
    return spike.after(layer, x) if isinstance(spike, IntegerSpike) else spike(layer(x))


def _in_a_row(layer: nn.Module) -> list[nn.Module]:
    """The modules that a layer runs one after another: itself, unless it says so or is a plain ``nn.Sequential``."""
    if type(layer) is nn.Sequential or getattr(layer, "runs_in_a_row", False):
        return list(layer.children())
    return [layer]


def _watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or torch.nn.modules.module._has_any_global_hook()


def fuse_norms(model: nn.Module, fuse: bool = True) -> int:
    """Let a model compute BatchNorm and the integer spikes behind it in one pass each way on a GPU (``norm_fire``).

    Returns:
        Number of spike layers; elsewhere than on a GPU nothing changes.
    """
    layers = [module for module in model.modules() if isinstance(module, IntegerSpike)]
    for layer in layers:
        layer.fuse_norm = fuse
    return len(layers)
