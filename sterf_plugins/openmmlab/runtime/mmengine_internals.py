"""Names of mmengine that are not promised; ``tests/test_private_names.py`` notices when a release changes one.

Each stands here with the reason why there is no public way.
"""

from collections.abc import Callable
from typing import Any

from mmengine.optim import OptimWrapper
from torch import nn


def replace_clipping(wrapper: OptimWrapper, clip: Callable[[], None]) -> None:
    """Let an optimizer wrapper call ``clip`` where it clips gradients.

    The public ``clip_func`` is not called on a process without gradients, which would leave the others waiting in a
    collective operation; a hook of the optimizer's step is not called where a gradient scaler has found an overflow.
    """
    wrapper._clip_grad = clip


def initialisation_account(module: nn.Module) -> dict[nn.Parameter, dict[str, Any]] | None:
    """What mmengine notes of each parameter while ``init_weights`` of a model runs; ``None`` at other times.

    mmengine asserts that it knows every parameter that an initialisation touches, so a layer that is put in for the
    time of an initialisation has to be entered.
    """
    return getattr(module, "_params_init_info", None)
