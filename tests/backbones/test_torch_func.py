"""``torch.func`` on whole backbones: per-sample gradients, Jacobians and tangents are those of a loop."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from sterf_plugins.backbones import SDTV1, SDTV3, MaxFormer, MetaSDT, QKFormer, Spikformer, SpikingCNN

NANO = dict(arch=dict(embed_dims=(8, 16, 16, 24), num_heads=4), out_indices=(1, 4))
BACKBONES = {
    "sdtv3-conv": lambda: SDTV3(mixer="conv", **NANO),
    "sdtv3-mlpixer-raster": lambda: SDTV3(mixer="mlpixer", norm_hidden=True, **NANO),
    "sdtv3-mlpixer-channel": lambda: SDTV3(mixer="mlpixer", norm_hidden=True, layout="channel", **NANO),
    "sdtv3-srb-raster": lambda: SDTV3(mixer="srb", norm_hidden=True, **NANO),
    "spikformer": lambda: Spikformer(depth=1, dim=32, num_heads=4, T=2, keep_time=True),
    "sdtv1": lambda: SDTV1(depth=1, dim=32, num_heads=4, T=2),
    "qkformer": lambda: QKFormer(depth=4, dim=64, num_heads=4, T=2),
    "meta_sdt": lambda: MetaSDT(embed_dims=(8, 16, 32, 48), num_heads=4, T=2),
    "max_former": lambda: MaxFormer(depth=4, dim=64, num_heads=4, T=2),
}


def network(name):
    """A float64 backbone whose neurons fire, a function (parameters, image) -> number, its parameters, and images."""
    torch.manual_seed(0)
    model = BACKBONES[name]().double().train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_var.clamp_(min=0.01)
    model.eval()
    parameters, buffers = (dict(t) for t in (model.named_parameters(), model.named_buffers()))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    weights = [torch.randn_like(y.select(-4, 0)) for y in model(x)]

    def score(parameters, image):
        maps = functional_call(model, (parameters, buffers), image.unsqueeze(0))
        return sum((y.squeeze(-4) * w).sum() for y, w in zip(maps, weights, strict=True))

    return model, score, {k: p.detach() for k, p in parameters.items()}, x


def assert_same(a, b):
    assert b.abs().max() > 0
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * b.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.sweep
def test_per_sample_gradients_are_those_of_a_loop(name):
    model, score, parameters, images = network(name)
    per_sample, of_images = vmap(grad(score, (0, 1)), (None, 0))(parameters, images)
    moving = 0
    for i, image in enumerate(images):
        leaf = image.clone().requires_grad_()
        own = dict(model.named_parameters())
        expected = torch.autograd.grad(score(own, leaf), [leaf, *own.values()])  # without a transform: the fast paths
        assert_same(of_images[i], expected[0])
        for key, g in zip(own, expected[1:], strict=True):
            if g.abs().max() > 1e-9:  # a bias in front of a norm moves nothing
                moving += 1
                assert_same(per_sample[key][i], g)
    assert moving > 2 * len(parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.sweep
def test_jacobians_and_tangents_are_those_of_a_loop(name):
    model, _, _, images = network(name)
    model.requires_grad_(False)  # as for a receptive field: norms have a gradient of their own

    def pooled(image):
        return torch.cat([y.reshape(4, -1).mean(1) for y in model(image.unsqueeze(0))])

    leaf = images[0].clone().requires_grad_()
    outputs = pooled(leaf)
    expected = torch.stack([torch.autograd.grad(y, leaf, retain_graph=True)[0] for y in outputs])
    assert_same(jacrev(pooled)(images[0]), expected)
    many = torch.eye(len(outputs), dtype=torch.float64)
    assert_same(torch.autograd.grad(outputs, leaf, many, is_grads_batched=True)[0], expected)
    tangent = torch.randn_like(leaf)
    values, change = jvp(pooled, (images[0],), (tangent,))
    assert_same(values, outputs.detach())
    assert_same(change, torch.einsum("ochw,chw->o", expected, tangent))
    assert_same(vmap(pooled)(images), torch.stack([pooled(image) for image in images]).detach())
    assert_same(vjp(pooled, images[0])[1](torch.ones_like(outputs))[0], expected.sum(0))


def test_an_ensemble_is_mapped_over_its_weights():
    """Under vmap a parameter does not say that a gradient is wanted; a norm must not take it for a constant."""
    _, score, parameters, images = network("sdtv3-conv")
    stacked = {k: torch.stack([p, 1.1 * p]) for k, p in parameters.items()}
    found = grad(lambda p: vmap(score, (0, None))(p, images[0]).sum())(stacked)
    for member in range(2):
        leaves = {k: p[member].clone().requires_grad_() for k, p in stacked.items()}
        expected = torch.autograd.grad(score(leaves, images[0]), list(leaves.values()))
        assert sum(bool(g.abs().max() > 1e-9) for g in expected) > len(expected) / 2
        for key, g in zip(leaves, expected, strict=True):
            torch.testing.assert_close(found[key][member], g, rtol=1e-8, atol=1e-9)


def penalty_gradients(model, score, x):
    """Gradients of the squared input gradient for the parameters, as a gradient penalty asks for them."""
    leaf, parameters = x.clone().requires_grad_(), dict(model.named_parameters())
    (g,) = torch.autograd.grad(score(parameters, leaf), leaf, create_graph=True)
    return torch.autograd.grad(g.square().sum(), list(parameters.values()), allow_unused=True, materialize_grads=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.sweep
def test_second_derivatives_work_or_name_the_switch(name):
    model, score, parameters, images = network(name)
    if not name.startswith("sdtv3"):
        with pytest.raises(RuntimeError, match=r"set `closed_form = False` on the nodes"):
            penalty_gradients(model, score, images[0])
        for m in model.modules():
            if hasattr(m, "closed_form"):
                m.closed_form = False
    found = penalty_gradients(model, score, images[0])
    expected = grad(lambda p: grad(score, 1)(p, images[0]).square().sum())(parameters)
    for a, b in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * max(1, b.abs().max().item()))
    assert sum(bool(g.abs().max() > 1e-6) for g in found) > len(found) / 4
    model.grad_checkpointing = True
    for a, b in zip(penalty_gradients(model, score, images[0]), found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * max(1, b.abs().max().item()))
    model.grad_checkpointing, model.memory_efficient = False, True
    with pytest.raises(RuntimeError, match=r"set `model\.memory_efficient = False`"):
        penalty_gradients(model, score, images[0])


@pytest.mark.parametrize("option", ["memory_efficient", "grad_checkpointing"])
def test_recomputation_is_refused_by_name(option):
    model = SDTV3(**NANO).eval()
    setattr(model, option, True)
    with pytest.raises(RuntimeError, match=r"model\.memory_efficient = False.*model\.grad_checkpointing = False"):
        grad(lambda x: model(x)[0].sum())(torch.randn(1, 3, 32, 32))


def test_neurons_of_spikingjelly_support_gradients_and_refuse_the_rest():
    """Its surrogate functions have no vmap and no jvp; PyTorch says so."""
    model = SpikingCNN(2, neuron="plif", T=3, mean=0.5).double()
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert_same(grad(lambda x: model(x).sum())(x), expected)
    with pytest.raises(RuntimeError, match="does not have vmap support"):
        vmap(model)(x.unsqueeze(0))
    with pytest.raises(NotImplementedError, match="jvp"):
        jvp(model, (x,), (x,))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdtv3-srb-raster", "spikformer"])
@pytest.mark.usefixtures("shallow")
def test_a_compiled_gradient_of_a_backbone(name):
    torch.compiler.reset()  # what other tests compiled of the same code
    _, score, parameters, images = network(name)
    leaf = images[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(score(parameters, leaf), leaf)
    if name == "spikformer":  # its neurons under `vmap` are compiled in tests/functional; tracing takes long
        found = torch.compile(grad(score, 1), backend="aot_eager")(parameters, images[0])
    else:
        found = torch.compile(vmap(grad(score, 1), (None, 0)), backend="eager")(parameters, images)[0]
    assert_same(found, expected)
