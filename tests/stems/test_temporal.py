"""Temporal fields: golden sequences, scaling laws, explicit state."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional as sj
from spikingjelly.activation_based import surrogate

from sterf_plugins.functional import decay, leaky_integrator, moving_integrator
from sterf_plugins.layers import if_node, lif_node
from sterf_plugins.stems import (
    CovariantRFConv2d,
    CovariantSTStem,
    RFBank,
    TemporalMemory,
    TemporalRF,
    cascade_constants,
    detach_state,
    temporal_scales,
)


@pytest.fixture
def arrays(covariant_golden):
    return lambda name: {k: torch.from_numpy(v) for k, v in covariant_golden(name).items()}


def sequence(x):
    """(T, n) -> (T, 1, n)."""
    return x.unsqueeze(1)


@pytest.mark.parametrize("backend", ["loop", "gemm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_leaky_integrators(arrays, backend, dtype):
    data = arrays("li_sequences")
    tolerance = dict(rtol=1e-6, atol=1e-6) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    for mu in data["mus"].tolist():
        for method in ("euler", "zoh", "backward"):
            field = TemporalRF([mu], method=method, backend=backend)
            y, state = field(sequence(data["x"]).to(dtype))
            torch.testing.assert_close(y[:, 0].detach(), data[f"{method}_mu{mu:g}"].to(dtype), **tolerance)
            torch.testing.assert_close(state[0, 0].detach(), y[-1, 0].detach())
        peak, _ = TemporalRF([mu], gain="peak", backend=backend)(sequence(data["xs"]).to(dtype))
        torch.testing.assert_close(peak[:, 0].detach(), data[f"impulse_mu{mu:g}"].to(dtype), **tolerance)
        start = torch.full((1, 1, 3), 0.7, dtype=dtype)
        y, _ = TemporalRF([mu], backend=backend)(sequence(data["x"]).to(dtype), start)
        torch.testing.assert_close(y[:, 0].detach(), data[f"zoh_v0_mu{mu:g}"].to(dtype), **tolerance)


class _SuperSpike(torch.autograd.Function):
    """norse 1.1.0's surrogate, 1 / (|u| + 1)^2, with its strict threshold."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (u.abs() + 1).square()


class SuperSpike(surrogate.SurrogateFunctionBase):
    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, u):
        return _SuperSpike.apply(u)


def lif_cases(data):
    for name in data:
        if name.startswith("zoh_") and name.endswith("_z"):
            case = name.removeprefix("zoh_").removesuffix("_z")
            mu, th, reset = case.split("_")
            yield case, float(mu[2:]), float(th[2:]), reset


def test_golden_lif(arrays):
    data = arrays("lif_sequences")
    cases = list(lif_cases(data))
    assert len(cases) >= 3
    for case, mu, th, reset in cases:
        for method in ("zoh", "euler"):
            y, state = TemporalRF([mu], "lif", method=method, th=th, reset=reset)(sequence(data["x"]).float())
            near = (data[f"{method}_{case}_h"] - th).abs() < 1e-6
            assert torch.equal(y[:, 0].double()[~near], data[f"{method}_{case}_z"].double()[~near])
            torch.testing.assert_close(
                state[0, 0].double().detach(), data[f"{method}_{case}_v"][-1].double(), rtol=0, atol=1e-5
            )


def test_golden_lif_gradients(arrays):
    data = arrays("lif_sequences")
    for case, mu, th, reset in lif_cases(data):
        if f"grad_{case}_x" not in data:
            continue
        x = sequence(data["x"]).double().requires_grad_()
        field = TemporalRF([mu], "lif", method="euler", th=th, reset=reset, surrogate=SuperSpike()).double()
        y, _ = field(x)
        (y[:, 0] * data[f"grad_{case}_w"]).sum().backward()
        torch.testing.assert_close(x.grad[:, 0], data[f"grad_{case}_x"].double(), rtol=1e-5, atol=1e-6)
        # d/d(1/mu): the golden array is per 1/s at dt = 1 ms
        slope = field.log_mu.grad * -mu / 1000
        torch.testing.assert_close(slope[0], data[f"grad_{case}_dtauinv"].double(), rtol=1e-4, atol=1e-8)


def test_golden_cascade(arrays):
    data = arrays("temporal_cascade")
    for i, (sigma, c, levels, _) in enumerate(data["params"].tolist()):
        discrete = cascade_constants(sigma, int(levels), c, discrete=True)
        assert discrete == pytest.approx(data[f"mu{i}"].tolist(), rel=1e-9)
        assert cascade_constants(sigma, int(levels), c) == pytest.approx(data[f"mu_cont{i}"].tolist(), rel=1e-9)
        field = TemporalRF(discrete, mode="cascade", method="backward")
        steps = len(data[f"impulse{i}"])
        torch.testing.assert_close(
            field.impulse_response(steps)[:, -1].double().detach(), data[f"impulse{i}"], rtol=1e-4, atol=1e-6
        )
        y, _ = field(data[f"x{i}"][:, None, None])
        torch.testing.assert_close(y[:, 0, -1].detach(), data[f"y{i}"], rtol=1e-5, atol=1e-6)


def test_golden_time_scaling(arrays):
    data = arrays("covariance_temporal")
    for mu in (1.5, 3.0):
        for scale in (2, 3):
            slower = sequence(data["x"]).repeat_interleave(scale, 0)
            y, _ = TemporalRF([mu * scale], backend="loop")(slower)
            torch.testing.assert_close(y[:, 0].detach(), data[f"yfull_S{scale}_mu{mu:g}"], rtol=0, atol=2e-7)
            torch.testing.assert_close(y[scale - 1 :: scale, 0].detach(), data[f"y_mu{mu:g}"], rtol=0, atol=2e-7)


@settings(max_examples=20, deadline=None)
@given(mu=st.floats(1.2, 20), scale=st.integers(2, 4), seed=st.integers(0, 100))
@pytest.mark.parametrize("mode", ["parallel", "cascade"])
def test_time_scaling_is_exact_for_zoh_alone(mode, mu, scale, seed):
    x = torch.randn(24, 1, 3, generator=torch.Generator().manual_seed(seed))
    slower = x.repeat_interleave(scale, 0)

    def error(method):
        y, _ = TemporalRF([mu], mode=mode, method=method)(x)
        scaled, _ = TemporalRF([mu * scale], mode=mode, method=method)(slower)
        return ((scaled[scale - 1 :: scale] - y).abs().max() / y.abs().max()).item()

    assert error("zoh") < 1e-5


@pytest.mark.parametrize(("method", "low", "high"), [("euler", 0.06, 0.12), ("backward", 0.035, 0.09)])
def test_other_methods_miss_time_scaling(arrays, method, low, high):
    """At mu = 3 forward Euler by 7-11 %, backward Euler by 4-8 %."""
    x = sequence(arrays("covariance_temporal")["x"]).float()
    for scale in (2, 3):
        y, _ = TemporalRF([3.0], method=method)(x)
        scaled, _ = TemporalRF([3.0 * scale], method=method)(x.repeat_interleave(scale, 0))
        assert low < ((scaled[scale - 1 :: scale] - y).abs().max() / y.abs().max()).item() < high


def test_event_responses_scale_with_the_gain():
    train = torch.zeros(60, 1, 1)
    train[::10] = 1
    compressed = torch.zeros(120, 1, 1)
    compressed[::20] = 1
    for gain, factor in (("peak", 1.0), ("area", 0.5)):
        y, _ = TemporalRF([4.0], gain=gain)(train)
        stretched, _ = TemporalRF([8.0], gain=gain)(compressed)
        ratio = stretched[::2] / y
        expected = 1.0 if gain == "peak" else (1 - math.exp(-1 / 8)) / (1 - math.exp(-1 / 4))
        torch.testing.assert_close(ratio, torch.full_like(ratio, expected), rtol=1e-4, atol=0)
        assert expected == pytest.approx(factor, rel=0.07)


@settings(max_examples=10, deadline=None)
@given(scale=st.integers(2, 4), drive=st.floats(2.2, 4.0), method=st.sampled_from(["zoh", "euler"]))
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.slow
def test_lif_spike_times_scale(reset, scale, drive, method):
    steps, mu = 400, 60.0

    def times(mu, steps, stretch):
        t = torch.arange(steps) / stretch
        x = (drive + 0.2 * torch.sin(t / 70)).view(-1, 1, 1)
        spikes, _ = TemporalRF([mu], "lif", method=method, reset=reset)(x)
        return spikes.flatten().nonzero().flatten().double()

    first, second = times(mu, steps, 1), times(mu * scale, steps * scale, scale)
    # A hard reset forgets what a step overshot, up to a step per spike: the difference grows with their number.
    count = min(len(first), len(second), 10 if reset == "soft" else 5)
    assert count >= 3
    allowed = 3 if reset == "soft" else torch.arange(1, count + 1)
    assert ((second[:count] / scale - first[:count]).abs() <= allowed).all()


def test_scaling_the_step_with_the_time_constant_changes_nothing():
    x = torch.randn(50, 1, 4)
    for kind in ("li", "lif"):
        one, _ = TemporalRF([5.0], kind, dt=1.0, th=0.2)(x)
        other, _ = TemporalRF([5.0 * 8], kind, dt=8.0, th=0.2)(x)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_galilean_motion(arrays):
    data = arrays("spatiotemporal_joint")
    a = decay(data["mu"], 1.0, "zoh")
    inner = slice(7, -7)
    phi = torch.tensor([math.cos(0.4), math.sin(0.4)], dtype=torch.float64)
    for m, n in ((0, 0), (1, 0), (0, 2)):
        bank = RFBank.from_matrices(
            data["Sigma"][None], phi[None], [(m, n)], truncate=5, zero_dc=False, normalize="none"
        )
        static = CovariantRFConv2d(1, None, bank, mode="aggregate")(data["video"].float().unsqueeze(1))
        moving = moving_integrator(static, a.float(), tuple(data["velocity"].tolist()))[:, 0]
        still = leaky_integrator(static, a.float(), torch.zeros_like(static[0]))[:, 0]
        for found, name in ((moving, "gal"), (still, "sep")):
            expected = data[f"{name}_m{m}n{n}"].float()
            error = (found - expected)[:, inner, inner].abs().max() / expected[:, inner, inner].abs().max()
            assert error < 1e-4, (name, m, n, error)
        gains = 1 - a.float() ** torch.arange(1, 11)
        law = static[:, 0] * gains[:, None, None]
        assert (moving - law)[:, inner, inner].abs().max() / law.abs().max() < 1e-4
        assert (still - law)[:, inner, inner].abs().max() / law.abs().max() > 0.1  # standing still is not covariant


@settings(max_examples=10, deadline=None)
@given(velocity=st.tuples(st.integers(-2, 2), st.integers(-2, 2)), mu=st.floats(1.5, 5.0))
def test_galilean_law_of_moving_noise(velocity, mu):
    scene = torch.randn(60, 60)
    video = torch.stack([scene[20 - n * velocity[1] :, 20 - n * velocity[0] :][:20, :20] for n in range(6)])
    a = decay(torch.tensor(mu))
    response = moving_integrator(video, a, velocity)
    expected = video * (1 - a ** torch.arange(1, 7))[:, None, None]
    inner = slice(12, -1) if max(map(abs, velocity)) == 0 else None
    for n in range(6):
        reach = max(abs(v) for v in velocity) * n
        middle = slice(reach, 20 - reach) if inner is None else slice(None)
        torch.testing.assert_close(response[n][middle, middle], expected[n][middle, middle], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["loop", "gemm"])
@pytest.mark.parametrize("gain", ["area", "peak"])
def test_gradcheck(backend, gain):
    x, v = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 1, 2), (2, 1, 2)))
    x = x.detach().unsqueeze(1).requires_grad_()
    a = torch.tensor([[[0.5]], [[0.8]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: leaky_integrator(*t, gain, backend), (x, a, v))


@pytest.mark.parametrize("kind", ["li", "lif"])
@pytest.mark.parametrize("mode", ["parallel", "cascade"])
def test_pieces_give_what_the_whole_gives(kind, mode):
    x = torch.randn(12, 2, 3, 4, 4)
    field = TemporalRF((2.0, 5.0), kind, mode, th=0.3)
    whole, last = field(x)
    first, state = field(x[:5])
    second, state = field(x[5:], detach_state(state))
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, last)
    memory = TemporalMemory(field)
    torch.testing.assert_close(torch.cat([memory(x[:5]), memory(x[5:])]), whole)
    memory.step_mode = "s"
    sj.reset_net(memory)
    torch.testing.assert_close(torch.stack([memory(frame) for frame in x]), whole)
    assert not [k for k in memory.state_dict() if "state" in k]


@pytest.mark.parametrize("kind", ["li", "lif"])
def test_norse_cells_are_ours(kind):
    pytest.importorskip("norse")
    x = torch.randn(20, 2, 3)
    for mu in ((4.0,), (2.0, 7.0)):
        ours = TemporalRF(mu, kind, method="euler", th=0.25)
        theirs = TemporalRF(mu, f"norse:{kind}", method="euler", th=0.25)
        for found, expected in zip(theirs(x), ours(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_combinations_and_channels():
    x = torch.randn(6, 2, 3, 4, 4)
    stack, _ = TemporalRF((2.0, 5.0))(x)
    assert stack.shape == (6, 2, 6, 4, 4)
    torch.testing.assert_close(TemporalRF((2.0, 5.0), combine="sum")(x)[0], stack[:, :, :3] + stack[:, :, 3:])
    torch.testing.assert_close(TemporalRF((2.0, 5.0), combine="mix")(x)[0], (stack[:, :, :3] + stack[:, :, 3:]) / 2)
    torch.testing.assert_close(TemporalRF((2.0, 5.0), combine="last")(x)[0], stack[-1])
    torch.testing.assert_close(TemporalRF((2.0, 5.0), per_channel=3)(x)[0], stack)


def test_time_first_is_space_first():
    x = torch.randn(16, 2, 2, 20, 20)
    for mode in ("parallel", "cascade"):
        time = TemporalRF((3.0, 9.0), mode=mode, combine="last")
        stem = CovariantSTStem(2, 4, norm=None, act=None, temporal=time)
        found, _ = stem(x)
        expected, _ = stem.time(stem.space(x))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        _, state = stem(x[:7])  # a first piece, behind which the second one goes on
        torch.testing.assert_close(stem(x[7:], state)[0], expected, rtol=1e-4, atol=1e-5)
        weights = torch.randn_like(found)
        ours = torch.autograd.grad((found * weights).sum(), list(stem.parameters()))
        theirs = torch.autograd.grad((expected * weights).sum(), list(stem.parameters()))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_scales():
    assert temporal_scales(4, 30, 2) == pytest.approx([5.477, 10.954, 21.909, 43.818], rel=1e-4)
    variances = torch.tensor(cascade_constants(4.0, 5, 2.0)).square().cumsum(0)
    assert variances.sqrt().tolist() == pytest.approx([0.25, 0.5, 1, 2, 4])


def test_uniform_start_is_between_the_given_constants():
    mus = TemporalRF((2.0, 5.0, 20.0), init="uniform").mus
    assert ((mus >= 1.999) & (mus <= 20.001)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemporalRF(()), "at least one time constant"),
        (lambda: TemporalRF((0.0,)), "`mus` is 0.0; it must be a finite number > 0"),
        (lambda: TemporalRF(["fast"]), "`mus` is 'fast'"),
        (lambda: TemporalRF((0.4,), method="euler"), "diverges"),
        (lambda: TemporalRF((2.0,), kind="spike"), "`kind`"),
        (lambda: TemporalRF((2.0,), per_channel=True), "number of channels"),
        (lambda: TemporalRF((2.0,), per_channel=2.7), "`per_channel` is 2.7"),
        (lambda: TemporalRF(2.0), "`mus` is 2.0"),
        (lambda: TemporalRF((math.inf,)), "`mus` is inf; it must be a finite number > 0"),
        (lambda: TemporalRF((2.0,), "lif", th=math.nan), "`th` is nan"),
        (lambda: TemporalRF((2.0,), "lif", th=0.0), "`th` is 0; it must be > 0"),
        (lambda: TemporalRF((2.0,), "norse:lif", method="euler", th=-1.0), "`th` is -1; it must be > 0"),
        (lambda: cascade_constants(math.inf, 3), "`sigma` is inf; it must be a finite number > 0"),
        (lambda: temporal_scales(3, c=math.inf), "`c` is inf; it must be a finite number > 1"),
        (lambda: temporal_scales(3, min="1"), "`min` is '1' .* a finite number > 0"),
        (lambda: TemporalRF((2.0,), learn_mu="no"), "`learn_mu` is 'no'"),
        (lambda: cascade_constants(2.0, 3, discrete="no"), "`discrete` is 'no'"),
        (lambda: TemporalRF((2.0,), "lif", per_channel=3), "one time constant per scale"),
        (lambda: TemporalRF((2.0,), "norse:li"), "method='euler'"),
        (lambda: TemporalRF((2.0,), surrogate=surrogate.ATan()), "`surrogate` is for kind='lif'"),
        (lambda: TemporalRF((2.0,), "lif", surrogate="ATan"), "`surrogate` is 'ATan'; it must be a function"),
        (lambda: CovariantSTStem(3, 8, temporal=(2.0, 4.0)), r"`temporal` is \(2.0, 4.0\)"),
        (lambda: TemporalRF((2.0,))(torch.zeros(2, 3, 4, 4)), "no time axis"),
        (lambda: TemporalRF((2.0,))(torch.zeros(0, 2, 3, 4, 4)), "T is 0"),
        (lambda: TemporalRF((2.0,))(torch.zeros(2, 2, 3, 4, 4), torch.zeros(1, 5, 3, 4, 4)), "another batch"),
        (lambda: TemporalRF((2.0,))(torch.zeros(2, 2, 3).double(), torch.zeros(1, 2, 3)), "float64"),
        (lambda: CovariantSTStem(3, 8)(torch.zeros(2, 3, 8, 8)), "static_T"),
        (lambda: CovariantSTStem(3, 8)(torch.zeros(0, 2, 3, 8, 8)), "T is 0"),
        (lambda: lif_node()(torch.zeros(0, 2)), "T is 0"),
        (lambda: moving_integrator(torch.zeros(0, 2, 2), torch.ones(()), (0.0, 0.0)), "T is 0"),
        (lambda: leaky_integrator(torch.zeros(0, 2), torch.ones(()), torch.zeros(2)), "T is 0"),
        (lambda: leaky_integrator(torch.zeros(1, 2), torch.ones(()), torch.zeros(2), "unit"), "`gain` is 'unit'"),
        (
            lambda: leaky_integrator(torch.zeros(1, 2), torch.ones(()), torch.zeros(2), backend="fft"),
            "`backend` is 'fft'",
        ),
        (lambda: decay(torch.ones(()), method="exact"), "`method` is 'exact'; allowed: 'zoh', 'euler', 'backward'"),
        (lambda: temporal_scales(0), "n"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize(
    "layer", [CovariantRFConv2d(2, 4), TemporalRF((2.0,)), lif_node(), if_node(), CovariantSTStem(2, 4)]
)
def test_counts_of_events_are_no_input_until_they_are_floats(layer, dtype):
    """Weights or sums that were rounded to the input's dtype gave zeros."""
    with pytest.raises(TypeError, match=rf"`x` has dtype {dtype}; .*x\.float\(\)"):
        layer(torch.ones(3, 2, 2, 8, 8, dtype=dtype))


def test_a_held_image_is_a_constant_sequence():
    stem = CovariantSTStem(3, 8, stride=2, static_T=3)
    y, state = stem.eval()(torch.randn(2, 3, 9, 9))
    assert y.shape == (3, 2, 16, 5, 5)
    assert state.shape == (2, 2, 8, 5, 5)


def test_overshooting_euler_warns():
    with pytest.warns(UserWarning, match="overshoots"):
        TemporalRF((0.7,), method="euler")


@pytest.mark.parametrize("kind", ["li", "lif"])
def test_a_detached_state_has_the_values_and_no_graph(kind):
    """Truncated back-propagation: the second piece's gradient does not reach the first."""
    x = torch.rand(4, 2, 3, 5, 5, requires_grad=True)
    filtering = TemporalRF([2.0, 5.0], kind=kind)
    _, state = filtering(x[:2])
    cut = detach_state(state)
    assert torch.equal(cut, state) and state.requires_grad and not cut.requires_grad
    filtering(x[2:], cut)[0].sum().backward()
    assert not x.grad[:2].any() and x.grad[2:].abs().max() > 0
    assert detach_state(None) is None
