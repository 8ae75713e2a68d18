"""Folded and spike-driven models in the formats that they are exported to."""

import pytest
import torch
from torch import nn
from trained import VARIANTS, outputs, trained

from sterf_plugins.deploy import reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import largest_error
from sterf_plugins.layers import IntegerSpike, lif_node
from sterf_plugins.layers.merged_time import MergedTimeNeuron


@pytest.mark.parametrize("kind", ["folded", "spike-driven"])
@pytest.mark.parametrize("name", ["conv", "mlpixer-raster", "mlpixer-channel", "srb-raster", "srb-channel"])
@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
def test_torch_export(name, kind):
    model = trained(7, **VARIANTS[name])
    model = reparameterize(model) if kind == "folded" else to_spike_driven(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
    assert largest_error(outputs(program.module(), x), outputs(model, x)) < 1e-4


class SeveralReaders(nn.Module):
    """Neurons of the same levels that read one map, as the branches of a head do."""

    def __init__(self, spike):
        super().__init__()
        self.spikes = nn.ModuleList(spike() for _ in range(3))

    def forward(self, x):
        y = x.exp()
        return tuple(i * spike(y) for i, spike in enumerate(self.spikes, 1))


EXPORTED = {
    "mlpixer-channel": lambda: reparameterize(trained(**VARIANTS["mlpixer-channel"])),
    "srb-raster": lambda: reparameterize(trained(**VARIANTS["srb-raster"])),
    "several readers": lambda: SeveralReaders(IntegerSpike).eval(),
    "several readers with D = 1": lambda: SeveralReaders(lambda: IntegerSpike(1)).eval(),
    "several readers over time": lambda: SeveralReaders(lambda: MergedTimeNeuron(lif_node(), 4)).eval(),
}


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
def test_onnx(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = EXPORTED[name]()
    x = torch.randn(4, 3, 32, 32)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for ours, theirs in zip(map(torch.from_numpy, found), outputs(model, x), strict=True):
        assert theirs.std() > 0 and largest_error(ours, theirs) < 1e-4
