"""Backbones and neurons under torch.compile: one graph, forward and backward, the plain numbers."""

import copy

import pytest
import timm
import torch
from spikingjelly.activation_based import neuron

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.backbones import SDTV3, meta_sdt, sdt_v3
from sterf_plugins.functional import integer_fire
from sterf_plugins.layers import MixerBlock, StatelessNode, if_node, lif_node

SMALL = dict(embed_dims=[8, 16, 16, 24], num_heads=4)


VARIANTS = [("conv", "raster"), ("mlpixer", "raster"), ("mlpixer", "channel"), ("srb", "raster"), ("srb", "channel")]


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "layout", "option"), [*((*v, "") for v in VARIANTS[:4]), (*VARIANTS[4], "all")])
@pytest.mark.sweep
def test_every_variant_compiles_to_one_graph(mixer, layout, option, monkeypatch):
    torch.compiler.reset()  # what other tests compiled of the same code
    torch.manual_seed(0)
    monkeypatch.setattr(sdt_v3, "DEPTHS", (1, 1, 1, 1, 1))  # tracing takes seconds for each block
    model = SDTV3(SMALL, mixer, layout=layout, norm_hidden=not option, num_classes=5 if option else 0)
    for block in model.modules():
        if option and isinstance(block, MixerBlock):  # new weights without a norm behind would give no spikes
            block.mixer.fc1.weight.data.mul_(30)
    model.double()  # float32 flips spikes
    model.memory_efficient = bool(option)
    x = torch.randn(2, 3, 32, 32).double()
    results = []
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager" if option else "eager", fullgraph=True)
    for module in (model, compiled):
        leaf = x.clone().requires_grad_()
        outputs = module(leaf)
        outputs = (outputs,) if option else outputs
        sum(y.square().sum() for y in outputs).backward()
        results.append([leaf.grad, *outputs, *(p.grad for p in module.parameters())])
    assert results[0][0].abs().max() > 0
    rounding = 1e-14 * max(a.abs().max().item() for a in results[0])  # biases in front of norms have no gradient
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-8 * a.abs().max().item() + rounding)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [None, 1])
def test_the_surrogate_survives_tracing(norm):
    x = torch.tensor([-1.0, 0.0, 1.2, 3.9, 4.0, 5.0])
    gradients = []
    for fire in (integer_fire, torch.compile(integer_fire, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        fire(leaf, 4, norm).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert gradients[0].tolist() == [0] + [0.25 if norm is None else 1] * 4 + [0]


def spikes_and_gradient(module, x):
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    return y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [lif_node, if_node, lambda: StatelessNode(neuron.ParametricLIFNode(step_mode="m"), T=3)]
)
def test_neurons_compile_to_one_graph_that_begins_afresh_each_time(build):
    torch.compiler.reset()
    node, x = build(), 3 * torch.rand(4, 2, 5)
    spikes, gradient = spikes_and_gradient(node, x)
    compiled = torch.compile(node, backend="aot_eager", fullgraph=True)
    first = spikes_and_gradient(compiled, x)
    with torch.compiler.set_stance("fail_on_recompile"):
        second = spikes_and_gradient(compiled, x)
    assert 0 < spikes.mean() < 1
    for found in (first, second):
        assert torch.equal(found[0], spikes)
        torch.testing.assert_close(found[1], gradient)


FAMILIES = [  # as small as they can be, of all blocks
    ("spikformer_8_384", dict(depth=1, dim=32)),
    ("sdtv1_8_384", dict(depth=1, dim=32)),
    ("qkformer_10_384", dict(depth=4, dim=96)),
    ("max_former_10_384", dict(depth=4, dim=96)),
    ("meta_sdt_15m", dict(embed_dims=(8, 8, 16, 24))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FAMILIES)
@pytest.mark.sweep
def test_networks_of_lif_neurons_compile_to_one_graph(name, options, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(meta_sdt, "DEPTHS", (1, 1, 1, 1, 1))
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).double()
    for module in model.modules():
        if hasattr(module, "v_threshold"):
            module.v_threshold = 0.2  # a fresh network would be silent
    images = 3 * torch.randn(2, 3, 32, 32).double()
    results = []
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager", fullgraph=True, dynamic=False)
    for network in (model, compiled):
        logits = network(images)
        logits.square().sum().backward()
        results.append((logits.detach(), *(p.grad for p in network.parameters())))
    assert (results[0][0][0] - results[0][0][1]).abs().max() > 1e-3
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
