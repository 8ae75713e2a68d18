"""Temporal receptive fields: leaky integrators and LIF neurons at several time scales, with explicit state."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import base, functional, surrogate
from torch import Tensor, nn

from ...checks import (
    check_floating,
    check_module,
    check_steps,
    entries,
    finite_number,
    flag,
    number_above,
    one_of,
    positive_int,
)
from ...functional.leaky_integrator import BACKENDS, GAINS, METHODS, decay, leaky_integrator
from ...functional.precision import without_autocast
from ...layers.norse_cells import norse_sequence
from .fixed import FixedNumbers, in_default_precision

KINDS = ("li", "lif", "norse:li", "norse:lif")
COMBINATIONS = ("stack", "sum", "mix", "last")


def temporal_scales(n: int, min: float = 1.0, c: float = 2**0.5) -> list[float]:
    """Standard deviations, in steps, of temporal scales whose variances are tau_k = min c^(2 (k-1)) for k = 1 to n.

    Args:
        n: number of scales.
        min: smallest variance, in steps squared.
        c: ratio of neighbouring standard deviations.

    Raises:
        TypeError: ``n`` is not an int.
        ValueError: ``n < 1``, ``min <= 0`` or ``c <= 1``, or one of them is not finite.
    """
    min, c = number_above("min", min, 0), number_above("c", c, 1)
    return [math.sqrt(min) * c**k for k in range(positive_int("n", n))]


def cascade_constants(sigma: float, levels: int, c: float = 2**0.5, discrete: bool = False) -> list[float]:
    """Time constants of a cascade of leaky integrators that approximates the time-causal limit kernel.

    With K = ``levels``, mu_1 = c^(1-K) sigma and mu_k = c^(k-K-1) sqrt(c^2-1) sigma. The variances mu_k^2 then add up
    to tau_k = c^(2(k-K)) sigma^2 after k levels, and the kernel tends to the limit kernel as K grows.

    Args:
        sigma: standard deviation of the whole cascade, in steps.
        levels: number K of integrators.
        c: ratio of the standard deviations after neighbouring levels.
        discrete: give the constants (sqrt(1 + 4 dtau_k) - 1) / 2 with dtau_k = tau_k - tau_(k-1), for which the
            variances of backward-Euler integrators (method "backward") add up exactly.

    Raises:
        TypeError: ``levels`` is not an int.
        ValueError: ``levels < 1``, ``sigma <= 0`` or ``c <= 1``, or one of them is not finite.

    Source: Lindeberg, arXiv:2311.10543.
    """
    flag("discrete", discrete)
    sigma, c = number_above("sigma", sigma, 0), number_above("c", c, 1)
    variances = [c ** (2 * (k - levels)) * sigma**2 for k in range(1, positive_int("levels", levels) + 1)]
    steps = [b - a for a, b in zip([0.0, *variances], variances, strict=False)]
    return [(math.sqrt(1 + 4 * d) - 1) / 2 if discrete else math.sqrt(d) for d in steps]


def uniform_constants(mus: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Random time constants (len(mus),), whose inverses are uniform between the extremes of the inverses of ``mus``."""
    low, high = 1 / max(mus), 1 / min(mus)
    return 1 / (low + (high - low) * torch.rand(len(mus), device="cpu").to(dtype))


class _Neurons(nn.Module):
    """The LIF neurons of one scale after another, as a module whose spikes ``firing`` and ``activity`` see by hooks.

    ``forward(x, v, fire)`` is ``fire(x, v)``: spikes (T, B, C, ...), and potentials (B, C, ...) after the last step.
    """

    is_spiking = True
    levels = norm = 1
    step_mode = "m"  # the first axis is time
    decay = True  # that of the potential costs operations, which are counted

    def forward(self, x: Tensor, v: Tensor, fire: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        return fire(x, v)


class TemporalRF(FixedNumbers):
    """A bank of leaky integrators or LIF neurons over time.

    Args:
        mus: the time constants of K scales, in the unit of ``dt``.
        kind: "li": leaky integrator; "lif": LIF through SpikingJelly's neuron; "norse:li", "norse:lif": norse's
            cells, one step at a time (extra ``norse``; forward Euler only, and it fires at v > th, not at v >= th).
        mode: "parallel": each scale receives the input; "cascade": each receives the output of the scale before it.
        dt: duration of a step.
        method: "zoh" (exact for inputs held during a step), "backward" or "euler" (see ``functional.decay``).
        gain: "area": a constant input gives the same constant; "peak": an event gives a jump of 1.
        combine: how the scales become one output. "stack": K times as many channels, scale after scale; "sum": their
            sum; "mix": their sum with a learned weight for each; "last": the stack, of the last step alone.
        th: firing threshold of the LIF kinds, above their rest at 0.
        reset: what a spike does to the potential of the LIF kinds: "hard" sets it to 0, "soft" subtracts ``th``, and
            ``None`` leaves it as it is.
        surrogate: surrogate function of SpikingJelly for the kind "lif"; ``None``: its ``Sigmoid``. The other kinds accept
            ``None`` only.
        learn_mu: whether the time constants are learned (as their logarithms).
        per_channel: number of channels, each of which then has its own time constants; False: all channels share them.
        init: "rf": the time constants start at ``mus``; "uniform": 1 / mu is drawn uniformly between the extremes of
            the inverses of ``mus``.
        backend: "loop", "gemm" or "auto", as in ``functional.leaky_integrator``.

    ``forward(x, state=None)`` takes x (T, B, C, H, W) or (T, B, C) and returns (y, state). A state is (K, B, C, H, W)
    or (K, B, C). A sequence that is fed in pieces, with the state passed on, gives the same as the whole sequence.

    Raises:
        ValueError, TypeError: an argument is out of range, T is 0, the input has no time axis, or the state belongs
            to another batch, dtype or device.

    Source: Nat. Commun. 16:8231 (2025), temporal fields.
    """

    def __init__(
        self,
        mus: Sequence[float],
        kind: str = "li",
        mode: str = "parallel",
        dt: float = 1.0,
        method: str = "zoh",
        gain: str = "area",
        combine: str = "stack",
        th: float = 1.0,
        reset: str | None = "hard",
        surrogate: Callable | None = None,
        learn_mu: bool = True,
        per_channel: bool | int = False,
        init: str = "rf",
        backend: str = "auto",
    ):
        super().__init__()
        for name, value, allowed in (
            ("kind", kind, KINDS),
            ("mode", mode, ("parallel", "cascade")),
            ("method", method, METHODS),
            ("gain", gain, GAINS),
            ("combine", combine, COMBINATIONS),
            ("reset", reset, ("hard", "soft", None)),
            ("init", init, ("rf", "uniform")),
            ("backend", backend, BACKENDS),
        ):
            one_of(name, value, allowed)
        mu = torch.tensor([number_above("mus", m, 0) for m in entries("mus", mus)], dtype=torch.float64, device="cpu")
        dt, th = number_above("dt", dt, 0), finite_number("th", th)
        if not len(mu):
            raise ValueError("`mus` is empty; give at least one time constant.")
        if init == "uniform":
            mu = uniform_constants(mu.tolist(), mu.dtype)
        self.kind, self.mode, self.dt, self.method, self.gain = kind, mode, dt, method, gain
        self.combine, self.th, self.reset, self.surrogate, self.backend = combine, th, reset, surrogate, backend
        if per_channel is True:
            raise ValueError("`per_channel` is True; give the number of channels, such as per_channel=32.")
        self.channels = positive_int("per_channel", per_channel) if per_channel else None
        self._check_dynamics(mu)
        log_mu = mu.log()
        if self.channels:
            log_mu = log_mu[:, None].repeat(1, self.channels)
        if flag("learn_mu", learn_mu):
            self.log_mu = nn.Parameter(in_default_precision(log_mu))
        else:
            self.fix("log_mu", log_mu)
        if combine == "mix":
            self.weights = nn.Parameter(torch.full((len(mu),), 1 / len(mu)))
        self.neurons = _Neurons() if kind in ("lif", "norse:lif") else None

    def _check_dynamics(self, mu: Tensor) -> None:
        ratio = self.dt / mu.min().item()
        if self.method == "euler" and ratio >= 2:
            raise ValueError(
                f"`mus` holds {mu.min().item():.3g} at dt={self.dt:g}: forward Euler diverges from dt/mu = 2 on; "
                f"method='zoh' is stable."
            )
        if self.method == "euler" and ratio > 1:
            warnings.warn(f"forward Euler overshoots at dt/mu = {ratio:.3g} > 1; method='zoh' does not.", stacklevel=3)
        if self.kind in ("lif", "norse:lif") and not self.th > 0:
            raise ValueError(f"`th` is {self.th:g}; it must be > 0: at rest, at 0, a neuron would fire in every step.")
        if self.surrogate is not None and self.kind != "lif":
            raise ValueError(f"`surrogate` is for kind='lif'; kind={self.kind!r} has none, or its own: leave it out.")
        if self.surrogate is not None and not callable(self.surrogate):
            raise TypeError(
                f"`surrogate` is {self.surrogate!r}; it must be a function, such as spikingjelly.activation_based.surrogate.ATan()."
            )
        if self.kind.startswith("norse") and (self.method != "euler" or self.gain != "area" or self.channels):
            raise ValueError(f"kind={self.kind!r} has method='euler', gain='area' and per_channel=False only.")
        if self.kind == "lif" and self.channels:
            raise ValueError("kind='lif' has one time constant per scale (SpikingJelly's neuron); per_channel=False.")
        if self.kind == "lif" and self.method == "euler" and ratio >= 1:
            raise ValueError(f"kind='lif' with forward Euler needs dt < mu, and dt/mu is {ratio:.3g}; method='zoh'.")
        if self.kind == "norse:lif" and self.reset != "hard":
            raise ValueError(f"kind='norse:lif' resets to 0 (reset='hard'); `reset` is {self.reset!r}.")

    def description(self) -> dict[str, Any]:
        """The time constants where they are not learned, and what else the dynamics depend on."""
        names = ("kind", "mode", "dt", "method", "gain", "th", "reset")
        fixed = super().description()
        return {name: getattr(self, name) for name in names} | ({"mus": fixed["log_mu"]} if fixed else {})

    @property
    def scales(self) -> int:
        """Number K of time scales."""
        return len(self.log_mu)

    @property
    def mus(self) -> Tensor:
        """Time constants (K,) or (K, channels), in the unit of ``dt``."""
        return self.log_mu.exp()

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        fresh = state is None
        state = self._start(x, state)
        dtype = x.dtype
        with without_autocast(x):  # in half precision a recursion would lose small inputs
            if fresh and self.combine == "last" and self.kind == "li" and not self.channels:
                last = self._last(x.to(state.dtype))
                return last.transpose(0, 1).flatten(1, 2).to(dtype), last
            y, state = self._scan(x.to(state.dtype), state)
        if self.combine == "last":
            return y[-1].transpose(0, 1).flatten(1, 2).to(dtype), state
        if self.combine == "stack":
            return y.transpose(1, 2).flatten(2, 3).to(dtype), state
        if self.combine == "sum":
            return y.sum(1).to(dtype), state
        return torch.einsum("k,tk...->t...", self.weights.to(y.dtype), y).to(dtype), state

    def _start(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Check the input and its state; without a state the potentials start at 0."""
        check_floating("x", x)
        if x.ndim not in (3, 5):
            raise ValueError(
                f"input has shape {tuple(x.shape)}; it must be (T, B, C, H, W) or (T, B, C). An image has no time axis: "
                f"x.unsqueeze(0) is one step of it, x.expand(T, *x.shape) holds it for T steps."
            )
        check_steps("x", x)
        if self.channels and x.shape[2] != self.channels:
            raise ValueError(f"input has shape {tuple(x.shape)}; per_channel={self.channels} needs so many channels.")
        shape = (self.scales, *x.shape[1:])
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if state is None:
            return torch.zeros(shape, dtype=dtype, device=x.device)
        if state.shape != shape or state.dtype != dtype or state.device != x.device:
            raise ValueError(
                f"`state` is {tuple(state.shape)}, {state.dtype} on {state.device}, for an input {tuple(x.shape)} it "
                f"must be {shape}, {dtype} on {x.device}. It belongs to another batch: pass state=None to start anew."
            )
        return state

    def _decays(self, ndim: int, dtype: torch.dtype) -> Tensor:
        """Decay factors of all scales, shaped to broadcast to a state (K, B, C, ...) with ``ndim`` axes."""
        a = decay(self.mus.to(dtype), self.dt, self.method)
        return a.view(self.scales, 1, self.channels or 1, *[1] * (ndim - 3))

    def _last(self, x: Tensor) -> Tensor:
        """States (K, B, C, ...) after the last step of leaky integrators that start at 0, in one product."""
        return (self._responses(len(x), x.dtype).flip(0).T @ x.flatten(1)).view(self.scales, *x.shape[1:])

    def _scan(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (T, K, B, C, ...) of all scales, and the state (K, B, C, ...) after the last step."""
        if self.kind == "li" and self.mode == "parallel":
            y = leaky_integrator(x.unsqueeze(1), self._decays(x.ndim, x.dtype), state, self.gain, self.backend)
            return y, y[-1]
        outputs, states = [], []
        for k in range(self.scales):
            y, last = self._scale(x, state[k], k)
            outputs.append(y)
            states.append(last)
            x = y if self.mode == "cascade" else x
        return torch.stack(outputs, 1), torch.stack(states)

    def _scale(self, x: Tensor, v: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Output (T, B, C, ...) of the scale ``k``, and its state (B, C, ...) after the last step."""
        if self.neurons is not None:
            return self.neurons(x, v, partial(self._fire, k))
        if self.kind == "norse:li":
            return norse_sequence(x, v, 1 / self.mus[k], self.dt, False, self.th)
        y = leaky_integrator(x, self._decays(x.ndim, x.dtype)[k], v, self.gain, self.backend)
        return y, y[-1]

    def _fire(self, k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes (T, B, C, ...) of the neurons of the scale ``k``, and their potentials (B, C, ...) after the last step."""
        if self.kind == "norse:lif":
            return norse_sequence(x, v, 1 / self.mus[k], self.dt, True, self.th)
        if self.reset is None:
            y = leaky_integrator(x, self._decays(x.ndim, x.dtype)[k], v, self.gain, self.backend)
            return (self.surrogate or surrogate.Sigmoid())(y - self.th), y[-1]
        # SpikingJelly's neuron computes v += q (x - v) for the gain "area" and v += x - q v for "peak", with
        # q = sigmoid(w). It is ours for q = 1 - a, whose logit w follows.
        r = self.dt / self.mus[k].to(x.dtype)
        w = {"zoh": lambda: r.expm1().log(), "backward": r.log, "euler": r.logit}[self.method]()
        spikes, last, _ = functional.plif_multi_step(
            x, v, w, self.gain == "area", self.th, None if self.reset == "soft" else 0.0, self.surrogate
        )
        return spikes, last

    def impulse_response(self, steps: int) -> Tensor:
        """Responses (steps, K) of the leaky integrators to an input of 1 in the first step and 0 afterwards.

        Raises:
            TypeError, ValueError: ``steps`` is not an int >= 1, or there is no single response per scale because the
                neurons fire or the channels have time constants of their own.
        """
        if self.kind != "li" or self.channels:
            raise ValueError("only leaky integrators with one time constant per scale have one impulse response.")
        return self._responses(positive_int("steps", steps), torch.float32)

    def _responses(self, steps: int, dtype: torch.dtype) -> Tensor:
        x = torch.zeros(steps, 1, 1, dtype=dtype, device=self.log_mu.device)
        x[0] = 1
        return self._scan(x, x.new_zeros(self.scales, 1, 1))[0].flatten(1)

    def extra_repr(self) -> str:
        return (
            f"mus={[round(m, 3) for m in self.mus.detach().flatten().tolist()[:8]]}, kind={self.kind}, mode={self.mode}, "
            f"method={self.method}, gain={self.gain}, combine={self.combine}"
        )


def detach_state(state: Tensor | None) -> Tensor | None:
    """The state cut off from the graph of earlier steps, for truncated back-propagation through time."""
    return None if state is None else state.detach()


class TemporalMemory(base.MemoryModule):
    """Wrap a module ``(x, state) -> (y, state)`` so that it keeps its state, as SpikingJelly's modules do.

    SpikingJelly's ``functional.reset_net`` clears the state. The state keeps its graph from call to call.

    Args:
        module: the module; it must accept a state of ``None``.
        step_mode: "s": inputs are single steps (B, C, ...); "m": inputs are sequences (T, B, C, ...).
    """

    state: Tensor | None

    def __init__(self, module: nn.Module, step_mode: str = "m"):
        super().__init__()
        check_module("module", module)
        self.module = module
        self.step_mode = step_mode
        self.register_memory("state", None)

    def single_step_forward(self, x: Tensor) -> Tensor:
        """One step, (B, C, ...) -> (B, C', ...)."""
        return self.multi_step_forward(x.unsqueeze(0)).squeeze(0)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """A sequence, (T, B, C, ...) -> (T, B, C', ...)."""
        y, self.state = self.module(x_seq, self.state)
        return y
