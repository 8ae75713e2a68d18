"""Spikes kept as bytes: the same numbers in less memory, with everything people train with."""

import copy

import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.blocks import SepConv, SpikeAttention
from sterf_plugins.functional import integer_fire, packed_spikes
from sterf_plugins.mixers import SRB, MLPixer


def saved_tensors(node) -> list[torch.Tensor]:
    """What autograd keeps for the backward pass from a node on, as it keeps it."""
    found, nodes, seen = [], [node], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_raw_saved"):
                saved = getattr(node, name)
                found += [s.data for s in (saved if isinstance(saved, (tuple, list)) else [saved])]
        nodes += [following for following, _ in node.next_functions]
    tensors = [getattr(data, "levels", data) for data in found if data is not None]
    return list({t.untyped_storage().data_ptr(): t for t in tensors}.values())


def saved_bytes(function, *inputs) -> int:
    """Memory that autograd keeps for the backward pass."""
    return sum(t.numel() * t.element_size() for t in saved_tensors(function(*inputs).grad_fn))


def gradients(model, x, memory_efficient, dtype=None):
    model.memory_efficient = memory_efficient
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(y.square().mean() for y in outputs).backward()
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None), *outputs]


@pytest.mark.parametrize("layout", ["raster", "channel"])
@pytest.mark.parametrize("mixer", ["conv", "mlpixer", "srb"])
def test_gradients_are_those_of_the_plain_path(mixer, layout):
    torch.manual_seed(0)
    model = SDTV3("nano", mixer, layout=layout, norm_hidden=True)
    x = torch.randn(2, 3, 64, 64)
    plain, packed = (gradients(copy.deepcopy(model), x, m) for m in (False, True))
    assert len(plain) == len(packed)
    for a, b in zip(plain, packed, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * a.abs().max().item())
    assert plain[0].abs().max() > 0


@pytest.mark.parametrize("norm", [None, 1, 3.0])
@pytest.mark.parametrize("levels", [1, 4, 255, 300])
def test_closed_interval_and_values(levels, norm):
    x = torch.tensor([-1.0, -0.25, 0.0, 0.5, levels - 0.5, float(levels), levels + 0.25, levels + 2.0])
    results = []
    for enabled in (False, True):
        leaf, weight = x.clone().requires_grad_(), torch.ones(8, requires_grad=True)
        with packed_spikes(enabled):
            y = integer_fire(leaf, levels, norm)
            (y * weight).sum().backward()
        results.append((y.detach(), leaf.grad, weight.grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_layer_keeps_a_byte_where_it_kept_four():
    conv = nn.Conv2d(32, 32, 3, padding=1)
    x = torch.randn(4, 32, 32, 32).mul(2)

    def run(packed):
        leaf = x.clone().requires_grad_()
        with packed_spikes(packed):
            return conv(integer_fire(leaf * 1.0, 4))

    plain, packed = saved_bytes(run, False), saved_bytes(run, True)
    weights = conv.weight.numel() * 4
    assert plain - weights == pytest.approx(8 * x.numel(), abs=64)  # membrane and spikes
    assert packed - weights == pytest.approx(2 * x.numel(), abs=64)  # mask and levels


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SRB(16, norm_hidden=True),
        lambda: MLPixer(16, norm_hidden=True),
        lambda: SpikeAttention(16),
        lambda: SepConv(16, 7),
    ],
    ids=["srb", "mlpixer", "attention", "depthwise"],
)
def test_no_layer_keeps_floats_of_spikes(layer):
    """Linear on raster tokens and products of attention rearrange spikes first: their copies are bytes, too."""
    torch.manual_seed(0)
    module = layer()
    x = torch.randn(2, 16, 16, 16).mul(2).contiguous(memory_format=torch.channels_last)
    results = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with packed_spikes(enabled):
            y = module(leaf)
        y.square().mean().backward()
        results.append([y.detach(), leaf.grad, *(p.grad.clone() for p in module.parameters())])
        module.zero_grad()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * a.abs().max().item())
    levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    spikes = []
    for enabled in (False, True):
        with packed_spikes(enabled):
            y = module(x.clone().requires_grad_())
        floats = [t for t in saved_tensors(y.grad_fn) if t.is_floating_point() and t.numel() >= x.numel()]
        spikes.append([t.shape for t in floats if torch.isin(t, levels).all()])
    assert len(spikes[0]) >= 2
    assert not spikes[1]


def test_spikes_that_are_changed_are_kept_as_they_are():
    x, weight = torch.rand(50).mul(4), torch.ones(50, requires_grad=True)
    gradients = []
    for enabled in (False, True):
        with packed_spikes(enabled):
            y = integer_fire(x.clone().requires_grad_(), 4).mul_(10)
            gradients.append(torch.autograd.grad((y * weight).sum(), weight)[0])
    assert torch.equal(*gradients)
    assert gradients[0].max() == 10


def test_memory_that_is_used_again_is_not_taken_for_spikes():
    with packed_spikes():
        for _ in range(50):
            x = torch.randn(1000, requires_grad=True)
            integer_fire(x, 4)  # dropped at once: its memory is free
            other = torch.rand(1000) * 4  # may lie where the spikes lay
            weight = torch.ones(1000, requires_grad=True)
            (weight * other).sum().backward()
            assert torch.equal(weight.grad, other)


def test_half_precision_checkpointing_and_no_grad():
    torch.manual_seed(0)
    model = SDTV3("nano", "srb", norm_hidden=True)
    x = torch.randn(2, 3, 64, 64)
    plain, packed = (gradients(copy.deepcopy(model), x, m, torch.bfloat16) for m in (False, True))
    for a, b in zip(plain, packed, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * a.abs().max().item())
    recomputed = copy.deepcopy(model)
    recomputed.grad_checkpointing = True
    for a, b in zip(gradients(copy.deepcopy(model), x, False), gradients(recomputed, x, True), strict=True):
        torch.testing.assert_close(b, a)
    model.eval().memory_efficient = True
    with torch.no_grad():
        packed = model(x)
    model.memory_efficient = False
    assert all(torch.equal(a, b) for a, b in zip(packed, model(x), strict=True))


def test_gradients_of_gradients_are_refused():
    x = torch.tensor([0.5, 1.5], requires_grad=True)
    with packed_spikes():
        y = integer_fire(x, 4)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()
