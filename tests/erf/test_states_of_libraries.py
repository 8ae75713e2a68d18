"""States of snnTorch's and norse's neurons: they are handed on, put back and forgotten."""

import numpy as np
import pytest
import torch
from by_autograd import field_over_time
from torch import nn

from sterf_plugins.erf import compute_erf


class Loop(nn.Module):
    """snnTorch's neurons with a hidden state, or one that is handed on but for the first step, stepped over time."""

    def __init__(self, hidden=True):
        super().__init__()
        import snntorch

        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.neuron = snntorch.Leaky(beta=0.7, threshold=0.1, init_hidden=hidden)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        spikes, state = [], ()
        for step in x:
            found = self.neuron(self.conv(step), *state)
            found, *state = found if isinstance(found, tuple) else (found,)
            spikes.append(found)
            self.out(found)
        return torch.stack(spikes)


def test_hidden_states_of_snntorch_are_put_back():
    pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = Loop(), torch.randn(5, 4, 2, 8, 8)
    before = {name: value.clone() for name, value in model.neuron.named_buffers()}
    one, two = (compute_erf(model, x, "neuron", batch_size=n).spatial["neuron"] for n in (4, 1))
    assert one.any() and np.allclose(one, two, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in model.neuron.named_buffers())
    assert np.allclose(one, field_over_time(model, x), rtol=1e-4, atol=1e-7)


class NorseLoop(nn.Module):
    """norse's cell, whose state is handed from step to step, and begins as ``None``."""

    def __init__(self):
        super().__init__()
        import norse.torch as norse

        self.conv, self.cell = nn.Conv2d(2, 4, 3, padding=1), norse.LIFCell()

    def forward(self, x):
        state, outputs = None, []
        for step in x:
            spikes, state = self.cell(5 * self.conv(step), state)
            outputs.append(spikes)
        return torch.stack(outputs)


def test_states_of_norse_are_handed_on():
    pytest.importorskip("norse", reason="norse is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = NorseLoop(), torch.randn(4, 3, 2, 8, 8)
    one, two = (compute_erf(model, x, "cell", batch_size=n) for n in (3, 1))
    assert "cell[0]" in one.layers and np.allclose(one.spatial["cell[0]"], two.spatial["cell[0]"], rtol=1e-5, atol=1e-7)
    expected = field_over_time(model, x)
    assert np.allclose(one.spatial["cell[0]"], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("hidden", [True, False])
def test_states_that_snntorch_has_left_are_forgotten(hidden):
    pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = Loop(hidden), torch.randn(5, 3, 2, 8, 8)
    fresh = compute_erf(model, x, "out", batch_size=3).spatial["out"]
    with torch.no_grad():
        model(x + 1)
    left = model.neuron.mem.clone()
    assert left.any() and np.array_equal(fresh, compute_erf(model, x, "out", batch_size=3).spatial["out"])
    assert torch.equal(model.neuron.mem, left)
