"""Apply layers that know no time axis to sequences."""

from collections.abc import Callable

from torch import Tensor

from ..checks import check_steps
from ..functional.still import is_still, repeat_still


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``layer`` to every time step; (T, B, ...) -> (T, B, ...).

    A still image (``functional.still``) is processed once and stands for all steps again. In training, BatchNorm's
    running variance then corrects for B instead of T*B samples; all else is the same.

    Raises:
        ValueError: there is no time step.
    """
    check_steps("x", x)
    if is_still(x):
        return repeat_still(layer(x[0]), len(x))
    # The batch is -1, not its size, which PyTorch's older ONNX exporter would take for fixed.
    return layer(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
