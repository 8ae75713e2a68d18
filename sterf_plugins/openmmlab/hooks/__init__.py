"""mmengine hooks, registered in scope ``sterf_plugins``."""

from .erf import ERFHook
from .finite_loss import FiniteLossHook
from .firing_rate import FiringRateHook
from .random_state import RandomStateHook
from .silence import SilenceHook

__all__ = ["ERFHook", "FiniteLossHook", "FiringRateHook", "RandomStateHook", "SilenceHook"]
