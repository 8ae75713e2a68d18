"""How many inputs go through a model at once: what memory allows, and halves of it when it runs out."""

import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.inputs.batches import Reading
from sterf_plugins.erf.inputs.sizer import Sizer

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


def test_memory_that_runs_out_halves_the_batch():
    sizes = []

    def work(part):
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return len(part)

    sizer = Sizer(8, torch.device("cpu"))
    assert sum(count for count, _ in sizer.run(Reading().batch(torch.zeros(9, 1, 2, 2)), work)) == 9
    assert sizes == [8, 4, 2, 2, 2, 2, 1]

    def never(part):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    with pytest.raises(MemoryError, match="with a single input of shape"):
        list(Sizer(4, torch.device("cpu")).run(Reading().batch(torch.zeros(4, 1, 2, 2)), never))

    def broken(part):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(Sizer(4, torch.device("cpu")).run(Reading().batch(torch.zeros(4, 1, 2, 2)), broken))


def test_single_images_are_joined_into_batches():
    sizes = []

    class Watch(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x

    images = [torch.randn(1, 1, 4, 4) for _ in range(7)] + [torch.randn(1, 4, 4)]
    result = compute_erf(nn.Sequential(Watch()), images, "0", batch_size=3)
    assert sizes == [3, 1, 3, 2]  # the single one shows that it gives the same alone
    assert result.info["num_inputs"] == 8


def test_the_batch_size_is_measured():
    sizer = Sizer(None, torch.device("cpu"))
    list(sizer.run(Reading().batch(torch.randn(5, 1, 4, 4)), lambda part: part.entries[0].requires_grad_() ** 2))
    assert sizer.size == 8  # small inputs: as many as are useful on a CPU


@pytest.mark.parametrize("efficient", [False, True])
def test_the_measured_batch_counts_what_a_pass_keeps(efficient, monkeypatch):
    """A network that would recompute its activations does not while its fields are computed, and is measured so."""
    sizes = []
    measured = Sizer._measured

    def watched(self, part, count, work):
        result = measured(self, part, count, work)
        sizes.append(self.size)
        return result

    monkeypatch.setattr(Sizer, "_measured", watched)
    monkeypatch.setattr("sterf_plugins.erf.inputs.sizer._free_memory", lambda device: 3 << 20)
    model = SDTV3(NANO, memory_efficient=efficient)
    compute_erf(model, torch.randn(8, 3, 64, 64), "stages.2")
    assert 1 <= sizes[0] < 8 and model.memory_efficient is efficient
