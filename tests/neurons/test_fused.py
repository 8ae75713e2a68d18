"""The short backward pass of IF and LIF nodes against SpikingJelly's own."""

import copy
import itertools

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

from sterf_plugins.blocks.lif_layers import SpikingConv
from sterf_plugins.neurons import StatelessNode, lif_node
from sterf_plugins.neurons.fused import _SURROGATES, is_fusable

KINDS = [
    (neuron.LIFNode, dict(tau=2.0)),
    (neuron.LIFNode, dict(tau=3.0, decay_input=False)),
    (neuron.IFNode, {}),
]
RESETS = [0.0, None, -0.3]
SURROGATES = [surrogate.Sigmoid(4.0), surrogate.ATan(), surrogate.Rect()]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("shape", [(5, 2, 3, 4, 4), (1, 2, 3), (3, 70000)])
def test_values_and_gradients_are_spikingjellys(kind, options, shape):
    for reset, detach, function in itertools.product(RESETS, (True, False), SURROGATES):
        node = kind(
            v_reset=reset, detach_reset=detach, surrogate_function=function, step_mode="m", v_threshold=0.5, **options
        )
        x = torch.randn(*shape, requires_grad=True)
        assert is_fusable(node, x)
        ours, theirs = StatelessNode(node)(x), node(x)
        node.reset()
        upstream = torch.randn_like(ours)
        (a,) = torch.autograd.grad(ours, x, upstream)
        (b,) = torch.autograd.grad(theirs, x, upstream)
        assert torch.equal(ours, theirs)
        assert ours.numel() < 10 or 0 < ours.mean() < 1
        assert torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("kind", _SURROGATES)
def test_every_surrogate(kind):
    node = neuron.LIFNode(v_reset=0.0, detach_reset=False, surrogate_function=kind(), step_mode="m", v_threshold=0.5)
    x = torch.randn(4, 2, 3, 5, requires_grad=True)
    assert is_fusable(node, x)
    ours, theirs = StatelessNode(node)(x), node(x)
    upstream = torch.randn_like(ours)
    (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (ours, theirs))
    assert torch.equal(ours, theirs) and torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_any_memory_order(order):
    node = StatelessNode(neuron.LIFNode(step_mode="m", v_threshold=0.3))
    x = torch.randn(4 * 2, 3, 6, 5).contiguous(memory_format=order).unflatten(0, (4, 2)).requires_grad_()
    twisted = torch.randn(4, 2, 5, 6, 3).permute(0, 1, 4, 3, 2)
    (a,) = torch.autograd.grad(node(x), x, twisted)
    plain = x.detach().contiguous().requires_grad_()
    (b,) = torch.autograd.grad(node.node(plain), plain, twisted)
    node.node.reset()
    assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_held_input(steps):
    held = StatelessNode(neuron.LIFNode(step_mode="m", v_threshold=0.3), T=steps)
    x = torch.randn(2, 3, 4, requires_grad=True)
    sequence = x.detach().expand(steps, *x.shape).clone().requires_grad_()
    ours, theirs = held(x), held.node(sequence).mean(0)
    held.node.reset()
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    (a,) = torch.autograd.grad(ours, x, upstream)
    (b,) = torch.autograd.grad(theirs, sequence, upstream)
    assert torch.allclose(a, b.sum(0), atol=1e-6)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("pool", [None, "before", "after"])
def test_a_spiking_convolution_is_the_same_when_its_parts_are_watched(pool, held):
    """Somebody who hooks a part gets the parts run one by one; values and gradients stay."""
    torch.manual_seed(0)
    layer = SpikingConv(3, 8, 3, pool=pool).double()
    layer.train()(torch.randn(2, 4, 3, 9, 8, dtype=torch.float64))
    layer.eval().requires_grad_(False)
    x = torch.randn(1 if held else 3, 2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    sequence = x[0].expand(3, *x.shape[1:]) if held else x
    ours = layer(sequence)
    assert ours.sum() > 0
    upstream = torch.randn_like(ours)
    (a,) = torch.autograd.grad(ours, x, upstream)
    seen = []
    layer.lif.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    layer.conv_bn.bn.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    theirs = layer(sequence)
    (b,) = torch.autograd.grad(theirs, x, upstream)
    assert len(seen) == 2
    assert torch.allclose(ours, theirs) and torch.allclose(a, b, atol=1e-12)


def test_what_is_not_fused():
    node = neuron.LIFNode(step_mode="m")
    x = torch.randn(2, 3, requires_grad=True)
    assert is_fusable(node, x)
    assert not is_fusable(node, x.detach())
    assert not is_fusable(neuron.ParametricLIFNode(step_mode="m"), x)
    with torch.no_grad():
        assert not is_fusable(node, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fusable(node, x)
    watched = copy.deepcopy(node)
    watched.register_forward_hook(lambda m, i, o: None)
    assert not is_fusable(watched, x)


def test_a_second_derivative_is_refused_and_not_wrong():
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(lif_node()(x).sum(), x, create_graph=True)
