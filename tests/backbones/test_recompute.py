"""Less kept for the backward pass: the same numbers in less memory, with everything people train with."""

import copy
import gc

import pytest
import torch
from live import equal, images, live
from torch import nn

from sterf_plugins.backbones import SDTV3, MaxFormer, MetaSDT, QKFormer, Spikformer


def kept_bytes(model, x) -> int:
    """Memory of the tensors that autograd keeps for the backward pass, parameters apart."""
    storages = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # kept, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(x)
    assert outputs is not None
    return sum(s.nbytes() for address, s in storages.items() if address not in parameters)


def gradients(model, x, dtype=None, **flags):
    model = copy.deepcopy(model)
    for name, value in flags.items():
        setattr(model, name, value)
    x = x.clone().requires_grad_()
    torch.manual_seed(3)  # dropout
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outputs = model(x)
    outputs = _maps(outputs)
    sum(y.square().mean() for y in outputs).backward()
    buffers = [b.clone() for b in model.buffers()]
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None), *outputs, *buffers]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) and ours[0].abs().max() > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * (b.detach().abs().max().item() if b.numel() else 0))


@pytest.mark.parametrize("flag", ["memory_efficient", "grad_checkpointing"])
@pytest.mark.parametrize("layout", ["raster", "channel"])
@pytest.mark.parametrize("mixer", ["conv", "mlpixer", "srb"])
@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_gradients_and_statistics_are_those_of_the_plain_pass(mixer, layout, flag):
    torch.manual_seed(0)
    model = SDTV3("nano", mixer, layout=layout, norm_hidden=True, drop_rate=0.1)
    x = torch.randn(2, 3, 32, 32)
    assert_same(gradients(model, x, **{flag: True}), gradients(model, x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda: Spikformer(2, 32, 4, T=2),
        lambda: QKFormer(4, 64, 4, T=2),
        lambda: MetaSDT((8, 16, 32, 48), 4, T=2),
        lambda: MaxFormer(4, 64, 4, T=2),
    ],
    ids=["spikformer", "qkformer", "meta_sdt", "max_former"],
)
@pytest.mark.parametrize("flag", ["memory_efficient", "grad_checkpointing"])
@pytest.mark.sweep
def test_networks_with_time(build, flag):
    torch.manual_seed(0)
    model = build().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_same(gradients(model, x, **{flag: True}), gradients(model, x))


@pytest.mark.parametrize("flag", ["memory_efficient", "grad_checkpointing"])
@pytest.mark.parametrize("build", [lambda: SDTV3("nano", "srb"), lambda: Spikformer(2, 32, 2, T=2)])
def test_nothing_stays_after_a_step(build, flag):
    """What autograd's functions hold goes with the graph; it stayed where the repeated pass was ended by an exception."""

    def functions() -> list:
        gc.collect()
        return [o for o in gc.get_objects() if issubclass(type(o), torch.autograd.function.BackwardCFunction)]

    model = build()
    setattr(model, flag, True)
    before = functions()  # of other tests
    sum(y.sum() for y in _maps(model(torch.rand(2, 3, 32, 32)))).backward()
    assert {id(o) for o in functions()} <= {id(o) for o in before}


def _maps(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.slow
def test_half_precision():
    torch.manual_seed(0)
    model, x = SDTV3("nano", "srb", norm_hidden=True), torch.randn(2, 3, 64, 64)
    assert_same(gradients(model, x, torch.bfloat16, memory_efficient=True), gradients(model, x, torch.bfloat16))


def test_norms_with_a_plain_mean_over_all_batches_count_once():
    torch.manual_seed(0)
    model, x = SDTV3("nano", "srb", norm_hidden=True), torch.randn(2, 3, 64, 64)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    assert_same(gradients(model, x, memory_efficient=True), gradients(model, x))


@pytest.mark.parametrize("mixer", ["conv", "mlpixer", "srb"])
def test_less_is_kept(mixer):
    """What is kept between the passes: every float of norms and spikes, results of products alone, stages' inputs."""
    torch.manual_seed(0)
    model, x = SDTV3("nano", mixer, norm_hidden=True), torch.randn(2, 3, 96, 96)
    plain = kept_bytes(model, x)
    model.grad_checkpointing = True
    inputs = kept_bytes(model, x)
    model.grad_checkpointing, model.memory_efficient = False, True
    # The results of products are kept by PyTorch's selective checkpointing outside of the saved tensors.
    assert kept_bytes(model, x) < 0.2 * plain
    assert inputs < 0.05 * plain


def test_no_gradients_no_difference():
    torch.manual_seed(0)
    model, x = live(SDTV3("nano", "srb")), images()
    with torch.no_grad():
        plain = model(x)
        model.memory_efficient = True
        assert equal(plain, model(x))
