import pytest
import torch
from spikingjelly.activation_based.surrogate import MultiLevelSpikeCount

from sterf_plugins.functional import integer_fire
from sterf_plugins.layers import IntegerSpike

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def probe(levels: int, dtype: torch.dtype) -> torch.Tensor:
    """Ties, both ends and their neighbours, and random values."""
    eps = torch.finfo(dtype).eps
    ends = torch.tensor([0.0, -0.0, levels, levels * (1 + eps), levels * (1 - eps), -eps, eps], dtype=dtype)
    grid = torch.arange(-1, levels + 1.01, 0.125)
    return torch.cat([ends, torch.cat([grid, torch.randn(500) * levels]).to(dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8, 16])
def test_values_and_gradients_are_spikingjellys(levels, dtype):
    torch.manual_seed(0)
    x = probe(levels, dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = integer_fire(ours, levels, norm=1), MultiLevelSpikeCount(levels)(theirs)
    assert torch.equal(y, expected)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(ours.grad, theirs.grad)


def test_rounds_half_to_even_and_divides_by_levels():
    x = torch.tensor([-1.0, 0.5, 1.5, 2.5, 3.5, 9.0])
    assert integer_fire(x).tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_gradient_is_one_over_norm_on_the_closed_interval():
    x = torch.tensor([-1e-6, 0.0, 2.0, 4.0, 4.000001], requires_grad=True)
    integer_fire(x).sum().backward()
    assert x.grad.tolist() == [0, 0.25, 0.25, 0.25, 0]


def test_same_in_train_and_eval():
    spike = IntegerSpike(4)
    x = torch.randn(64) * 3
    results = []
    for mode in (True, False):
        spike.train(mode)
        leaf = x.clone().requires_grad_()
        y = spike(leaf)
        y.sum().backward()
        results.append((y.detach(), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradient_comes_in_the_memory_order_of_the_input():
    x = torch.randn(1, 4, 3, 5, requires_grad=True)
    strange = torch.randn(1, 4, 3, 5).to(memory_format=torch.channels_last)
    seen = {}
    x_copy = x * 1
    x_copy.register_hook(lambda g: seen.update(stride=g.stride(), grad=g))
    integer_fire(x_copy).backward(strange)
    assert seen["stride"] == x.stride()
    inside = (x >= 0) & (x <= 4)
    assert torch.equal(seen["grad"], strange * inside / 4)


def test_double_backward():
    x = torch.rand(8, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((integer_fire(x) * weight).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), weight)
    assert torch.allclose(second, torch.full_like(second, 0.25))


def test_does_not_change_its_input():
    x = torch.randn(10) * 3
    before = x.clone()
    integer_fire(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integer_fire(torch.ones(3, dtype=torch.long)), "floating-point"),
        (lambda: integer_fire(torch.ones(3), levels=0), "`levels` is 0"),
        (lambda: integer_fire(torch.ones(3), levels=2.5), "`levels` is 2.5"),
        (lambda: integer_fire(torch.ones(3), norm=0), "`norm` is 0"),
        (lambda: IntegerSpike(0), "`levels` is 0"),
        (lambda: IntegerSpike(2.5), "`levels` is 2.5"),
        (lambda: IntegerSpike(4, norm=-1), "`norm` is -1"),
        (lambda: IntegerSpike(4, norm=float("nan")), "`norm` is nan"),
        (lambda: integer_fire(torch.ones(3), norm=float("inf")), "`norm` is inf"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_interval_ends_at_zero_and_at_levels_for_every_type(dtype):
    number = torch.finfo(dtype)
    least = number.tiny * number.eps if dtype == torch.float16 else number.tiny
    x = torch.tensor([-least, 0.0, 4.0, 4 * (1 + number.eps)], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(integer_fire(x, 4).sum(), x)
    assert gradient.tolist() == [0, 0.25, 0.25, 0]
