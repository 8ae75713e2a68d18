"""norse's leaky integrator and LIF cells over a sequence (optional extra ``norse``)."""

import torch
from torch import Tensor

from ..checks import require


def norse_sequence(x: Tensor, v: Tensor, tau_inv: Tensor, dt: float, fires: bool, th: float) -> tuple[Tensor, Tensor]:
    """Run norse's ``li_box`` or ``lif_box`` cell step by step: forward Euler, hard reset to 0, a spike at v > th.

    Args:
        x: input (T, ...).
        v: membrane potential (...) before the first step.
        tau_inv: inverse time constant.
        dt: duration of a step, in the unit of the time constant.
        fires: True: LIF neuron, which gives spikes; False: leaky integrator, which gives potentials.
        th: firing threshold.

    Returns:
        Spikes or potentials (T, ...), and the potential (...) after the last step.

    Raises:
        ImportError: norse is not installed.
    """
    require("norse", extra="norse")
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters, LIBoxState, li_box_feed_forward_step
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    step, state, parameters = (
        (
            lif_box_feed_forward_step,
            LIFBoxFeedForwardState(v=v),
            LIFBoxParameters(tau_mem_inv=tau_inv, v_leak=zero, v_th=zero + th, v_reset=zero),
        )
        if fires
        else (li_box_feed_forward_step, LIBoxState(v=v), LIBoxParameters(tau_mem_inv=tau_inv, v_leak=zero))
    )
    outputs = []
    for frame in x:
        y, state = step(frame, state, parameters, dt)
        outputs.append(y)
    return torch.stack(outputs), state.v
