"""Whoever watches a module sees it: SpikingJelly's monitors and PyTorch's hooks, forward and backward."""

import pytest
import torch
from spikingjelly.activation_based import monitor
from spikingjelly.activation_based.neuron import BaseNode
from spikingjelly.activation_based.surrogate import SurrogateFunctionBase
from torch import nn
from torch.nn.modules import module as torch_module

from sterf_plugins.backbones import SDTV1, SDTV3, MaxFormer, MetaSDT, QKFormer, Spikformer
from sterf_plugins.layers import IntegerSpike, StatelessNode
from sterf_plugins.stems import CovariantSTStem, TemporalRF

NANO = dict(arch=dict(embed_dims=(8, 16, 16, 24), num_heads=4), num_classes=3)
NETWORKS = {
    "sdtv3-conv": lambda: SDTV3(**NANO),
    "sdtv3-mlpixer": lambda: SDTV3(mixer="mlpixer", norm_hidden=True, **NANO),
    "sdtv3-srb": lambda: SDTV3(mixer="srb", layout="channel", **NANO),
    "sdtv3-memory-efficient": lambda: SDTV3(memory_efficient=True, **NANO),
    "spikformer": lambda: Spikformer(depth=1, dim=32, num_heads=4, T=2, num_classes=3),
    "sdtv1": lambda: SDTV1(depth=1, dim=32, num_heads=4, T=2, num_classes=3),
    "qkformer": lambda: QKFormer(depth=4, dim=64, num_heads=4, T=2, num_classes=3),
    "meta_sdt": lambda: MetaSDT(embed_dims=(8, 16, 32, 48), num_heads=4, T=2, num_classes=3),
    "max_former": lambda: MaxFormer(depth=4, dim=64, num_heads=4, T=2, num_classes=3),
}
MONITORS = (monitor.OutputMonitor, monitor.InputMonitor, monitor.GradOutputMonitor, monitor.GradInputMonitor)


def run(model):
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    model(x).square().sum().backward()


def called(model, kind):
    """Names of the modules of this type; nobody calls a ``ModuleList``, nor SpikingJelly its surrogates' modules."""
    never = (nn.ModuleList, SurrogateFunctionBase)
    return {n for n, m in model.named_modules() if isinstance(m, kind) and not isinstance(m, never)}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [BaseNode, (StatelessNode, IntegerSpike), nn.Module])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sweep
@pytest.mark.slow
def test_all_monitors_see_the_same_modules(name, kind, frozen):
    model = NETWORKS[name]().eval().requires_grad_(not frozen)
    monitors = [m(model, kind, lambda value: None) for m in MONITORS]
    run(model)
    for m in monitors:
        assert {n for n, records in m.name_records_index.items() if records} == called(model, kind), type(m).__name__
        m.close()
    if kind is BaseNode and not name.startswith("sdtv3"):
        assert len(monitors[2].records) == len(monitors[0].records) == len(called(model, kind)) > 5


@pytest.mark.parametrize("name", NETWORKS)
def test_hooks_on_all_modules_see_the_same_modules(name):
    model = NETWORKS[name]().eval()
    names, seen = {m: n for n, m in model.named_modules()}, {}
    look = lambda kind: lambda module, *_: seen.setdefault(kind, set()).add(names.get(module, ""))  # noqa: E731
    handles = [
        getattr(torch_module, f"register_module_{kind}_hook")(look(kind))
        for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre")
    ]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == 4
    for kind, found in seen.items():
        assert found == called(model, nn.Module), kind


def test_a_stem_that_filters_in_time_first_calls_its_layers():
    stem = CovariantSTStem(2, 4, temporal=TemporalRF((2.0, 4.0), combine="last"), norm=None)
    seen = {n: [] for n, _ in stem.named_children()}
    for name, part in stem.named_children():
        part.register_forward_hook(lambda *_, name=name: seen[name].append("forward"))
        part.register_full_backward_hook(lambda *_, name=name: seen[name].append("backward"))
    stem(torch.randn(5, 1, 2, 16, 16, requires_grad=True))[0].sum().backward()
    assert seen == {name: ["forward", "backward"] for name in ("space", "time", "act")}
