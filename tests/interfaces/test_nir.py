"""Networks as NIR graphs: what is read back from the file gives the outputs of the network, step by step."""

import numpy as np
import pytest
import torch
from torch import nn

nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")

from spikingjelly.activation_based.nir_exchange import import_from_nir  # noqa: E402

from sterf_plugins.backbones import SDTV3, SpikingCNN  # noqa: E402
from sterf_plugins.deploy import to_nir  # noqa: E402
from sterf_plugins.erf import calibrate  # noqa: E402
from sterf_plugins.layers import IntegerSpike, SpikeAttention, lif_node  # noqa: E402
from sterf_plugins.stems import CovariantStem, CovariantSTStem, TemporalRF  # noqa: E402

DT = 1e-3


def read_back(path, frames) -> torch.Tensor:
    """The outputs (T, B, …) of a file in SpikingJelly, fed one step after another."""
    network, state, outputs = import_from_nir(path, dt=DT), None, []
    for frame in frames:
        output, state = network(frame, state)
        outputs.append(output)
    return torch.stack(outputs)


NEURONS = {
    "if": dict(neuron="if"),
    "lif": dict(neuron="lif", tau=3.0, v_threshold=0.4),
    "undecayed input": dict(neuron="lif", tau=2.5, decay_input=False, v_reset=-0.1),
    "plif": dict(neuron="plif", init_tau=4.0, v_threshold=0.3),
}


@pytest.mark.parametrize("options", NEURONS.values(), ids=NEURONS)
def test_a_convolutional_network_is_read_back(options, tmp_path):
    torch.manual_seed(0)
    model = SpikingCNN(2, channels=4, in_chans=2, bias=True, std=0.3, **options)
    frames = torch.rand(6, 1, 2, 8, 9)
    to_nir(model, frames[0], tmp_path / "network.nir", dt=DT)
    expected = model(frames)
    assert expected.any() and not expected.all()
    torch.testing.assert_close(read_back(tmp_path / "network.nir", frames), expected)


def test_a_covariant_stem_is_read_back_with_its_norm(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(CovariantStem(3, 6), lif_node(tau=2.0, v_threshold=0.2))
    frames = torch.randn(5, 2, 3, 16, 16)
    calibrate(model, frames)
    model.train()
    path = tmp_path / "new folder" / "stem.nir"
    graph = to_nir(model, frames[0], path, dt=DT)
    assert list(path.parent.iterdir()) == [path]
    assert model.training and model[0].bn.training
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", "Conv2d", "LIF", "Output"]
    model.eval()
    torch.testing.assert_close(read_back(path, frames), model(frames))


@pytest.mark.parametrize("kind, gain", [("li", "area"), ("li", "peak"), ("lif", "area"), ("lif", "peak")])
def test_temporal_fields_of_several_scales(kind, gain, tmp_path):
    """SpikingJelly reads no ``LI``, nor neurons with several time constants: here by forward Euler, as NIR defines them."""
    torch.manual_seed(0)
    field = TemporalRF((2.0, 5.0), kind=kind, gain=gain, th=0.3)
    model = CovariantSTStem(2, 3, temporal=field, act=None)
    frames = torch.randn(7, 1, 2, 8, 8)
    model.eval()
    to_nir(model, frames[0], tmp_path / "stem.nir", dt=DT)
    graph = nir.read(tmp_path / "stem.nir")
    first, copy, cells = (graph.nodes[name] for name in ("conv2d", "conv2d_1", "li" if kind == "li" else "lif"))
    x = frames[:, 0]
    for conv in (first, copy):
        padding = tuple(int(p) for p in np.broadcast_to(conv.padding, 2))
        weights = (torch.from_numpy(np.asarray(array)) for array in (conv.weight, conv.bias))
        x = nn.functional.conv2d(x, *weights, padding=padding)
    v, outputs = np.zeros_like(cells.tau), []
    for current in x.detach().numpy():
        v = v + DT / cells.tau * (cells.v_leak - v + cells.r * current)
        fired = v >= getattr(cells, "v_threshold", np.inf)
        outputs.append(fired.astype(np.float32) if kind == "lif" else v)
        v = np.where(fired, getattr(cells, "v_reset", 0), v)
    expected = model(frames)[0][:, 0]
    assert expected.any()
    torch.testing.assert_close(torch.from_numpy(np.stack(outputs)), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_stand_at_several_places_come_as_often():
    torch.manual_seed(0)
    conv, neuron = nn.Conv2d(2, 2, 3, padding=1), lif_node(tau=2.0, v_threshold=0.2)
    model = nn.Sequential(conv, neuron, conv, neuron)
    frames = 3 * torch.rand(6, 1, 2, 8, 9)
    graph = to_nir(model, frames[0], dt=DT)
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", *["Conv2d", "LIF"] * 2, "Output"]
    expected = neuron(conv(neuron(conv(frames[:, 0]).unsqueeze(1))[:, 0]).unsqueeze(1))
    assert expected.any() and not expected.all()
    torch.testing.assert_close(read_back(graph, frames), expected)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d((2, 3), (1, 2), (1, 0))])
def test_average_pooling_is_read_back(pool, tmp_path):
    torch.manual_seed(0)
    conv, neuron = nn.Conv2d(2, 3, 3), lif_node(tau=2.0, v_threshold=0.2)
    frames = 3 * torch.rand(5, 1, 2, 9, 11)
    to_nir(nn.Sequential(conv, pool, neuron), frames[0], tmp_path / "network.nir", dt=DT)
    expected = neuron(pool(conv(frames[:, 0])).unsqueeze(1))
    assert expected.any() and not expected.all()
    torch.testing.assert_close(read_back(tmp_path / "network.nir", frames), expected)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_what_has_no_node_is_refused_by_its_name():
    x = torch.rand(1, 8, 4, 4)
    with pytest.raises(ValueError, match=r"`model` has 0, a SpikeAttention, for which NIR has no node; allowed: conv"):
        to_nir(nn.Sequential(SpikeAttention(8, 2)), x)
    with pytest.raises(ValueError, match="a SDTV3 for which"):
        to_nir(SDTV3(arch="nano"), torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="1, a IntegerSpike,"):
        to_nir(nn.Sequential(nn.Conv2d(8, 8, 1), IntegerSpike()), x)
    with pytest.raises(ValueError, match="a Residual for"):
        to_nir(Residual(nn.Conv2d(8, 8, 1)), x)
    with pytest.raises(ValueError, match="follows no convolution"):
        to_nir(nn.Sequential(nn.BatchNorm2d(8)), x)
    with pytest.raises(ValueError, match="without running statistics"):
        to_nir(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)), x)
    with pytest.raises(ValueError, match="allowed: ceil_mode=False"):
        to_nir(nn.Sequential(nn.Conv2d(8, 8, 1), nn.AvgPool2d(3, ceil_mode=True)), x)
    with pytest.raises(ValueError, match=r"1, a StatelessNode, with T=4: it holds its input for 4 steps"):
        to_nir(nn.Sequential(nn.Conv2d(8, 8, 1), lif_node(T=4)), x)
    with pytest.raises(ValueError, match="'cascade'"):
        to_nir(TemporalRF((1.0, 2.0), mode="cascade"), x)
    with pytest.raises(NotImplementedError, match="soft reset"):
        to_nir(nn.Sequential(lif_node(tau=2.0, v_reset=None)), x)
    with pytest.raises(NotImplementedError, match="Grouped"):
        to_nir(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), x)


def test_wrong_arguments_are_named():
    model = nn.Sequential(nn.Conv2d(8, 8, 1))
    for example in (3, torch.zeros(1, 8, 4, 4, dtype=torch.int64)):
        with pytest.raises(TypeError, match=r"`example` .* floating"):
            to_nir(model, example)
    with pytest.raises(TypeError, match="`dt` is 'a'"):
        to_nir(model, torch.rand(1, 8, 4, 4), dt="a")
