"""Covariant fields under DistributedDataParallel."""

import os
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sterf_plugins.stems import CovariantRFConv2d, CovariantSTStem, RFBank, TemporalRF

LEARN = ("sigma", "ratio", "angle")


def build() -> nn.Module:
    torch.manual_seed(0)
    bank = RFBank((1.0, 1.5), (1.0, 1.5), 2, orders=1, kernel_size=7, learn=LEARN)
    return CovariantSTStem(2, 6, bank, TemporalRF([2.0, 5.0]), norm=None)


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y, _ = model(x)
    return y.square().mean()


def batch() -> torch.Tensor:
    return torch.randn(5, 4, 2, 12, 12, generator=torch.Generator().manual_seed(1))  # (T, B, C, H, W)


def train(rank: int, folder: str) -> None:
    """Two steps of one of two processes; its weights are written into the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    half = batch()[:, 2 * rank : 2 * rank + 2]
    with torch.no_grad():
        model(half)  # what a validation between two steps does
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, half).backward()
        optimizer.step()
    torch.save(model.module.state_dict(), f"{folder}/{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_the_fields_that_one_does(forked, tmp_path):
    result = forked(__file__, tmp_path, processes=2)
    assert result.returncode == 0, result.stderr
    model = build()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, batch()).backward()
        optimizer.step()
    states = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    for name, value in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, start[name]), f"{name} did not learn"


def test_sync_bn_conversion_keeps_the_fields():
    """What mmengine's ``sync_bn`` option does to a model; the norm itself needs a GPU or a process group."""
    model = nn.Sequential(CovariantRFConv2d(3, 4), nn.BatchNorm2d(4))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[0], CovariantRFConv2d)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    stem = nn.SyncBatchNorm.convert_sync_batchnorm(CovariantSTStem(2, 4, temporal=TemporalRF([2.0])))
    assert isinstance(stem.norm, nn.SyncBatchNorm)


if __name__ == "__main__":
    train(int(os.environ["RANK"]), sys.argv[1])
