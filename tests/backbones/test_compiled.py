"""SDT-V3 under torch.compile: one graph, forward and backward, the plain numbers."""

import copy

import pytest
import torch

from sterf_plugins.backbones import SDTV3, sdt_v3
from sterf_plugins.functional import integer_fire
from sterf_plugins.layers import MixerBlock

SMALL = dict(embed_dims=[8, 16, 16, 24], num_heads=4)


VARIANTS = [("conv", "raster"), ("mlpixer", "raster"), ("mlpixer", "channel"), ("srb", "raster"), ("srb", "channel")]


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "layout", "option"), [*((*v, "") for v in VARIANTS[:4]), (*VARIANTS[4], "all")])
def test_every_variant_compiles_to_one_graph(mixer, layout, option, monkeypatch):
    torch.compiler.reset()  # what other tests compiled of the same code
    torch.manual_seed(0)
    # A block of each kind, or two with all options; tracing takes seconds for each.
    monkeypatch.setattr(sdt_v3, "DEPTHS", (1, 1, 2, 1, 2) if option else (1, 1, 1, 1, 1))
    model = SDTV3(SMALL, mixer, layout=layout, norm_hidden=not option, num_classes=5 if option else 0)
    for block in model.modules():
        if option and isinstance(block, MixerBlock):  # new weights without a norm behind would give no spikes
            block.mixer.fc1.weight.data.mul_(30)
    model.double()  # float32 flips spikes
    model.memory_efficient = bool(option)
    x = torch.randn(2, 3, 32, 32).double()
    results = []
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager", fullgraph=True)
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
