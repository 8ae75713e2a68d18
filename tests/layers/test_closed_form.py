"""The short backward pass of IF and LIF nodes against SpikingJelly's own."""

import copy
import io
import itertools
from functools import partial

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate

from sterf_plugins.functional.still import repeat_still
from sterf_plugins.layers import StatelessNode, if_node, lif_node, plif_node
from sterf_plugins.layers.lif_layers import SpikingConv

KINDS = [
    (lif_node, neuron.LIFNode, dict(tau=2.0)),
    (lif_node, neuron.LIFNode, dict(tau=3.0, decay_input=False)),
    (if_node, neuron.IFNode, {}),
]
ALL_SURROGATES = [
    surrogate.ATan, surrogate.DeterministicPass, surrogate.Erf, surrogate.LeakyKReLU, surrogate.NonzeroSignLogAbs,
    surrogate.PiecewiseExp, surrogate.PiecewiseLeakyReLU, surrogate.PiecewiseQuadratic, surrogate.Rect, surrogate.Sigmoid,
    surrogate.SoftSign, surrogate.SuperSpike,
]  # fmt: skip


def has_closed_form(y) -> bool:
    return y.grad_fn.name() == "_SpikesBackward"


RESETS = [0.0, None, -0.3]
SURROGATES = [surrogate.Sigmoid(4.0), surrogate.ATan(), surrogate.Rect()]


@pytest.mark.parametrize(("build", "kind", "options"), KINDS)
@pytest.mark.parametrize("shape", [(5, 2, 3, 4, 4), (1, 2, 3), (3, 70000)])
def test_values_and_gradients_are_spikingjellys(build, kind, options, shape):
    for reset, detach, function in itertools.product(RESETS, (True, False), SURROGATES):
        same = dict(v_reset=reset, detach_reset=detach, surrogate_function=function, v_threshold=0.5, **options)
        x = torch.randn(*shape, requires_grad=True)
        ours, theirs = build(**same)(x), kind(step_mode="m", **same)(x)
        assert has_closed_form(ours) and not has_closed_form(theirs)
        upstream = torch.randn_like(ours)
        (a,) = torch.autograd.grad(ours, x, upstream)
        (b,) = torch.autograd.grad(theirs, x, upstream)
        assert torch.equal(ours, theirs) and torch.equal(build(**same)(x.detach()), theirs)
        assert ours.numel() < 10 or 0 < ours.mean() < 1
        assert torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("kind", ALL_SURROGATES)
def test_every_surrogate(kind):
    same = dict(v_reset=0.0, detach_reset=False, surrogate_function=kind(), v_threshold=0.5)
    x = torch.randn(4, 2, 3, 5, requires_grad=True)
    ours, theirs = lif_node(**same)(x), neuron.LIFNode(step_mode="m", **same)(x)
    assert has_closed_form(ours)
    upstream = torch.randn_like(ours)
    (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (ours, theirs))
    assert torch.equal(ours, theirs) and torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(
    "function", [surrogate.MultiLevelSpikeCount(4), surrogate.Sigmoid(spiking=False), lambda v: v.sigmoid().round()]
)
@pytest.mark.parametrize(("build", "kind", "options"), KINDS)
def test_a_surrogate_whose_values_are_no_step_runs_as_it_is(build, kind, options, function):
    same = dict(surrogate_function=function, v_threshold=0.5, **options)
    x = 2 * torch.randn(4, 2, 3, 5, requires_grad=True)
    theirs = kind(step_mode="m", **same)(x)
    assert torch.equal(build(**same)(x), theirs) and torch.equal(build(**same)(x.detach()), theirs)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_any_memory_order(order):
    node, stock = lif_node(v_threshold=0.3), neuron.LIFNode(step_mode="m", v_threshold=0.3)
    x = torch.randn(4 * 2, 3, 6, 5).contiguous(memory_format=order).unflatten(0, (4, 2)).requires_grad_()
    twisted = torch.randn(4, 2, 5, 6, 3).permute(0, 1, 4, 3, 2)
    (a,) = torch.autograd.grad(node(x), x, twisted)
    plain = x.detach().contiguous().requires_grad_()
    (b,) = torch.autograd.grad(stock(plain), plain, twisted)
    assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_still_input(steps, detach):
    same = dict(v_threshold=0.3, detach_reset=detach)
    x = torch.randn(2, 3, 4, requires_grad=True)
    sequence = x.detach().expand(steps, *x.shape).clone().requires_grad_()
    ours, theirs = lif_node(steps, **same)(x), neuron.LIFNode(step_mode="m", **same)(sequence).mean(0)
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    (a,) = torch.autograd.grad(ours, x, upstream)
    (b,) = torch.autograd.grad(theirs, sequence, upstream)
    assert torch.allclose(a, b.sum(0), atol=1e-6)


def test_a_still_input_with_a_second_reader():
    """The engine adds the gradients of both readers before the repetition sums them over time."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 3, 4, dtype=torch.float64)
    node, stock = lif_node(v_threshold=0.3), neuron.LIFNode(step_mode="m", v_threshold=0.3)
    still = repeat_still(x, 5)
    (a,) = torch.autograd.grad((node(still) * weights).sum() + (still * weights).sum(), x)
    copied = x.expand(5, 3, 4).clone()
    (b,) = torch.autograd.grad((stock(copied) * weights).sum() + (copied * weights).sum(), x)
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("pool", [None, "before", "after"])
def test_a_spiking_convolution_is_its_parts_and_every_part_can_be_watched(pool, still):
    torch.manual_seed(0)
    layer = SpikingConv(3, 8, 3, pool=pool).double()
    layer.train()(torch.randn(2, 4, 3, 9, 8, dtype=torch.float64))
    layer.eval().requires_grad_(False)
    x = torch.randn(1 if still else 3, 2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    seen = []
    for part in (layer.lif, layer.lif.node, layer.conv_bn.bn):
        part.register_forward_hook(lambda m, i, o: seen.append("forward"))
        part.register_full_backward_hook(lambda m, i, o: seen.append("backward"))
    ours = layer(repeat_still(x[0], 3) if still else x)
    assert ours.sum() > 0
    upstream = torch.randn_like(ours)
    (a,) = torch.autograd.grad(ours, x, upstream, retain_graph=True)
    assert seen == ["forward"] * 3 + ["backward"] * 3
    stock = copy.deepcopy(layer)
    stock.lif = StatelessNode(neuron.LIFNode(
        2.0, v_threshold=1.0, v_reset=0.0, detach_reset=True, surrogate_function=surrogate.Sigmoid(4.0), step_mode="m"
    ))  # fmt: skip
    copied = x[0].expand(3, *x.shape[1:]).clone() if still else x
    theirs = stock(copied)
    (b,) = torch.autograd.grad(theirs, x, upstream)
    assert torch.allclose(ours, theirs) and torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tau=1.0), "a LIFNode cannot have tau=1.0: `tau` and `init_tau` must be > 1"),
        (dict(v_threshold="1"), "cannot have v_threshold='1'"),
        (dict(tau=2.0, detach_reset="no"), "cannot have tau=2.0, detach_reset='no'"),
        (dict(v_threshold=float("nan")), "`v_threshold` is nan; it must be a finite number"),
        (dict(tau=float("inf")), "`tau` is inf; it must be a finite number"),
    ],
)
def test_values_that_a_node_cannot_have(options, message):
    with pytest.raises(ValueError, match=message):
        lif_node(**options)


def test_a_node_stays_in_multi_step_mode():
    node = lif_node(T=4)
    functional.set_step_mode(node, "s")
    for run in (lambda: node(torch.ones(2, 3)), lambda: StatelessNode(neuron.LIFNode())):
        with pytest.raises(ValueError, match="step_mode 's'; build it with 'm', and leave it"):
            run()


def test_ints_are_numbers():
    x = torch.rand(4, 3) * 3
    assert torch.equal(lif_node(tau=2, v_threshold=1, v_reset=0)(x), lif_node(tau=2.0, v_threshold=1.0, v_reset=0.0)(x))


def test_where_spikingjellys_own_forward_runs():
    x = torch.randn(2, 3, requires_grad=True)
    assert has_closed_form(lif_node()(x))
    assert not has_closed_form(StatelessNode(neuron.LIFNode(step_mode="m"))(x))
    assert lif_node()(x.detach()).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_closed_form(lif_node()(x))
    assert not has_closed_form(lif_node(store_v_seq=True)(x))


@pytest.mark.parametrize(("build", "drive"), [(if_node, 0.6), (lif_node, 1.5)])
def test_a_state_that_somebody_left_in_the_node_does_not_enter(build, drive):
    layer, x = build(), torch.full((3, 2, 3), drive)  # spikes in the second step, and a potential is left in the third
    expected = layer(x)
    layer.node.closed_form = False
    layer.node(x)  # SpikingJelly's own call keeps its state
    layer.node.closed_form = True
    assert layer.node.v.abs().max() > 0
    assert torch.equal(layer(x), expected)
    assert expected.sum() > 0


@pytest.mark.parametrize("kind", [neuron.ParametricLIFNode, neuron.QIFNode, neuron.LIFNode])
def test_a_node_of_spikingjelly_that_ran_before_begins_afresh_and_keeps_nothing(kind):
    node = kind(step_mode="m")
    x = 3 * torch.rand(4, 2, 3)
    fresh = StatelessNode(copy.deepcopy(node))(x)
    node(x[:2])
    assert (node.v != 0).any()
    wrapped = StatelessNode(node)
    assert torch.equal(wrapped(x), fresh) and fresh.any()
    assert not torch.is_tensor(node.v)  # the number that it begins with


def test_no_more_is_saved_than_two_factors_of_each_step():
    x, saved = torch.randn(4, 100, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda t: t):
        lif_node()(x)
    assert sum(saved) == (4 + 3) * 100


@pytest.mark.parametrize("layer", [lif_node(v_threshold=0.3), SpikingConv(3, 4, 3).eval()])
def test_a_still_input_whose_steps_have_gradients_of_their_own(layer):
    """The short sums over time would spread or gather what belongs to single steps."""
    torch.manual_seed(0)
    frame = torch.randn(2, 3, 6, 6) * 3
    still, copied = (
        frame.expand(4, *frame.shape).requires_grad_(),
        frame.expand(4, *frame.shape).clone().requires_grad_(),
    )
    upstream = torch.randn_like(layer(copied))
    (expected,) = torch.autograd.grad(layer(copied), copied, upstream)
    assert (expected[1] - expected[0]).abs().max() > 0.01
    (found,) = torch.autograd.grad(layer(still), still, upstream)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.func.vjp(layer, still.detach())[1](upstream)[0], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch says that this exporter is old
@pytest.mark.parametrize("build", [plif_node, partial(lif_node, surrogate_function=surrogate.MultiLevelSpikeCount(2))])
def test_the_old_onnx_exporter_is_refused_with_the_way(build):
    """It would say at the end of a printed graph that it does not know the operators of SpikingJelly's neurons."""
    with pytest.raises(TypeError, match=r"dynamo=False\) has no operator for a .*LIFNode; export with dynamo=True"):
        torch.onnx.export(build(T=2).eval(), (torch.zeros(1, 2),), io.BytesIO(), dynamo=False)


class _Weighted(torch.nn.Module):
    """A node behind a parameter, as inside of a model."""

    def __init__(self, node):
        super().__init__()
        self.node, self.weight = node, torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.node(x * self.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("build", "kind", "options"), KINDS)
@pytest.mark.parametrize("detach", [True, False])
def test_a_trace_has_ordinary_operations_and_the_same_derivatives(build, kind, options, detach):
    """Where SpikingJelly is not imported, nothing knows its operators."""
    for reset, function in zip(RESETS, SURROGATES, strict=True):
        same = dict(v_reset=reset, detach_reset=detach, surrogate_function=function, v_threshold=0.5, **options)
        model = _Weighted(build(**same)).double()
        x, other = 2 * torch.randn(2, 4, 3, 5, dtype=torch.float64)
        traced = torch.jit.trace(model, x)
        assert {node.kind().split("::")[0] for node in traced.inlined_graph.nodes()} == {"aten", "prim"}
        assert "PythonOp" not in str(traced.inlined_graph)
        other.requires_grad_()
        ours, theirs = traced(other), model(other)
        assert torch.equal(ours, theirs) and 0 < ours.mean() < 1
        (a,), (b,) = (torch.autograd.grad(y, other, torch.arange(60.0).view(4, 3, 5)) for y in (ours, theirs))
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_older_onnx_exporter_writes_a_file_for_any_batch(tmp_path):
    """timm's ``onnx_export.py`` calls it."""
    runtime = pytest.importorskip("onnxruntime")
    model = torch.nn.Sequential(SpikingConv(3, 4, 3), SpikingConv(4, 4)).eval()
    for part in model:
        torch.nn.init.normal_(part.conv_bn.conv.weight)
    file, axes = str(tmp_path / "model.onnx"), {"x": {1: "batch"}}
    example = torch.randn(2, 1, 3, 6, 6)
    torch.onnx.export(model, (example,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    x = torch.randn(2, 3, 3, 6, 6)
    (found,) = runtime.InferenceSession(file).run(None, {"x": x.numpy()})
    expected = model(x)
    assert expected.any() and (expected[:, 0] != expected[:, 1]).any()
    assert torch.equal(torch.from_numpy(found), expected)
