"""Every short backward pass of ours: under ``torch.func``, in forward mode, compiled, and differentiated again."""

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch.autograd import forward_ad, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from sterf_plugins.functional import depthwise_conv2d, frozen_batch_norm, integer_fire
from sterf_plugins.functional.leaky_integrator import leaky_integrator
from sterf_plugins.functional.still import repeat_still
from sterf_plugins.layers import StatelessNode, if_node, lif_node

WEIGHT = torch.rand(3, 1, 3, 5, dtype=torch.float64)
MEAN, VAR, SCALE, BIAS = torch.rand(4, 3, dtype=torch.float64) + 0.5
DECAY, START = torch.tensor([[0.5], [0.8]]).double(), torch.rand(2, 1, dtype=torch.float64)

# a function of one tensor, and the shape of its argument
FUNCTIONS = {
    "integer": (integer_fire, (3, 4)),
    "lif": (lif_node(v_threshold=0.5), (4, 5)),
    "lif not detached": (lif_node(v_threshold=0.5, v_reset=-0.2, detach_reset=False, tau=3.0), (4, 5)),
    "lif, one step": (lif_node(v_threshold=0.5), (1, 5)),
    "if, soft reset, atan": (if_node(v_threshold=0.5, v_reset=None, surrogate_function=surrogate.ATan()), (4, 5)),
    "lif, held": (lif_node(4, v_threshold=0.5), (6,)),
    "still": (lambda x: repeat_still(x, 3) * torch.arange(3.0).view(3, 1), (4,)),
    "norm": (lambda x: frozen_batch_norm(x, MEAN, VAR, SCALE, BIAS, 1e-3), (1, 3, 2, 2)),
    "depthwise": (lambda x: depthwise_conv2d(x, WEIGHT), (1, 3, 4, 5)),
    "leaky": (lambda x: leaky_integrator(x.unsqueeze(1), DECAY, START, backend="loop"), (5, 1)),
}


def case(name, samples=()):
    function, shape = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(1)
    return function, torch.randn(*samples, *shape, generator=generator, dtype=torch.float64) * 1.5


def by_rows(function, x):
    """The Jacobian by ordinary backward passes, one output at a time."""
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in y.flatten()]
    return torch.stack(rows).view(*y.shape, *x.shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_way_to_a_jacobian(name):
    function, x = case(name)
    expected = by_rows(function, x)
    assert expected.abs().max() > 0.01
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    many = torch.eye(y.numel(), dtype=x.dtype).view(-1, *y.shape)
    (batched,) = torch.autograd.grad(y, leaf, many, is_grads_batched=True, retain_graph=True)
    mapped = vmap(lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0])(many)
    for found in (jacrev(function)(x), jacfwd(function)(x), batched.view_as(expected), mapped.view_as(expected)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    tangent = torch.randn_like(x)
    change = (expected.flatten(-x.ndim) @ tangent.flatten()).view_as(y)
    torch.testing.assert_close(jvp(function, (x,), (tangent,))[1], change, rtol=1e-10, atol=1e-12)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(dual.tangent, change, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(dual.primal, y.detach(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_of_samples(name):
    function, x = case(name, (3,))
    score = lambda x: (function(x) * torch.linspace(0.5, 2, function(x).numel()).view_as(function(x))).sum()  # noqa: E731
    gradients = []
    for sample in x:
        leaf = sample.clone().requires_grad_()
        gradients += torch.autograd.grad(score(leaf), leaf)
    expected, values = torch.stack(gradients), torch.stack([function(sample) for sample in x])
    assert expected.abs().max() > 0.01
    last = x.movedim(0, -1)
    for found in (vmap(grad(score))(x), vmap(grad(score), -1)(last), grad(lambda x: vmap(score)(x).sum())(x)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(vmap(function)(x), values, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["integer", "lif", "still", "norm", "depthwise", "leaky"])
@pytest.mark.sweep
def test_a_compiled_gradient_is_the_plain_one(name):
    function, x = case(name)
    score = lambda x: function(x).square().sum() + function(x)[-1].sum() * 3  # noqa: E731
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(score(leaf), leaf)
    assert expected.abs().max() > 0.01
    found = torch.compile(grad(score), backend="aot_eager")(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    if name == "lif" and torch.__version__ >= "2.14":
        return  # Dynamo 2.14 refuses `vmap` over an autograd function, with an error that says so
    per_sample = torch.compile(vmap(grad(score)), backend="aot_eager")(torch.stack([x, x]))
    torch.testing.assert_close(per_sample[1], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["loop", "gemm"])
@pytest.mark.parametrize("gain", ["area", "peak"])
def test_second_derivatives_of_a_leaky_integrator(backend, gain):
    x = torch.randn(5, 1, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, DECAY.unsqueeze(-1).requires_grad_(), torch.rand(2, 1, 2, dtype=torch.float64, requires_grad=True))
    assert gradgradcheck(lambda *t: leaky_integrator(*t, gain, backend), inputs)


@pytest.mark.parametrize("name", ["integer", "still", "norm", "depthwise"])
def test_second_derivatives_of_what_is_linear(name):
    """d/dx of |J^T g|^2 is 0 where J is constant, and d/dg of it is 2 J J^T g."""
    function, x = case(name)
    jacobian = by_rows(function, x)
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    upstream = torch.randn_like(y).requires_grad_()
    (g,) = torch.autograd.grad(y, leaf, upstream, create_graph=True)
    (found,) = torch.autograd.grad(g.square().sum(), upstream)
    flat = jacobian.reshape(y.numel(), -1)
    torch.testing.assert_close(found, (2 * flat @ flat.T @ upstream.flatten()).view_as(y), rtol=1e-10, atol=1e-12)


def scores_of_neurons():
    node = lif_node(v_threshold=0.5)
    return node, lambda x: node(x).sum()


@pytest.mark.parametrize(
    "ask",
    [
        lambda f, x: torch.autograd.grad(torch.autograd.grad(f(x), x, create_graph=True)[0].sum(), x),
        lambda f, x: torch.autograd.grad(f(x), x, create_graph=True)[0].square().sum().backward(),
        lambda f, x: torch.autograd.functional.hessian(f, x),
        lambda f, x: torch.autograd.functional.hessian(f, x, vectorize=True),
        lambda f, x: grad(lambda x: grad(f)(x).sum())(x),
        lambda f, x: hessian(f)(x),
        lambda f, x: jacrev(jacrev(f))(x),
        lambda f, x: grad(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1])(x),
        lambda f, x: jvp(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1], (x,), (torch.ones_like(x),)),
    ],
)
def test_second_derivatives_of_neurons_name_the_switch(ask):
    _, score = scores_of_neurons()
    with pytest.raises(RuntimeError, match=r"first derivatives only.*`closed_form = False`"):
        ask(score, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_a_second_derivative_behind_a_weight_is_not_lost():
    """The first gradient depends on the weight in front of the neuron and, through the neuron, on its input."""
    _, score = scores_of_neurons()
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(score(weight * x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="closed_form = False"):
        g.sum().backward()


def test_the_switch_gives_second_derivatives():
    node, score = scores_of_neurons()
    node.node.closed_form = False
    stock = StatelessNode(neuron.LIFNode(step_mode="m", v_threshold=0.5, surrogate_function=surrogate.Sigmoid(4.0)))
    node.node.surrogate_function = surrogate.Sigmoid(4.0)
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    found, same = (torch.autograd.functional.hessian(f, x) for f in (score, lambda x: stock(x).sum()))
    s = torch.sigmoid(4.0 * (x.detach() / 2 - 0.5)).flatten()  # one step of tau 2: s'' / 4 of sigmoid(4 y)
    torch.testing.assert_close(found.view(4, 4), torch.diag(16 * s * (1 - s) * (1 - 2 * s) / 4))
    torch.testing.assert_close(found, same)
