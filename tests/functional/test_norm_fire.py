"""BatchNorm and spikes in one Triton pass: on a GPU, or else in Triton's interpreter (see conftest.py)."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sterf_plugins.blocks import MixerBlock, TransformerBlock
from sterf_plugins.functional import can_norm_fire, integer_fire, norm_fire, packed_spikes
from sterf_plugins.mixers import ConvMixer
from sterf_plugins.neurons import IntegerSpike, fuse_norms

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def a_norm(channels: int, dtype=torch.float32, **options) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, device=DEVICE, dtype=dtype, **options)
    with torch.no_grad():
        norm.weight.uniform_(-1, 2)
        norm.bias.normal_()
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return norm


def an_input(*shape: int, dtype=torch.float32) -> torch.Tensor:
    x = torch.randn(shape, device=DEVICE, dtype=dtype) * 3 + 50  # a mean far from 0, where naive sums lose digits
    return x.contiguous(memory_format=torch.channels_last)


def both_ways(norm, x, levels=4, divisor=4.0):
    """(spikes, gradient of x, of weight, of bias, running mean, running variance), fused and plain."""
    found = []
    for fused in (True, False):
        own, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        wide = leaf if leaf.dtype == own.weight.dtype else leaf.float()
        y = norm_fire(leaf, own, levels, divisor) if fused else integer_fire(own(wide), levels, divisor)
        y.backward(torch.linspace(-1, 1, y.numel(), device=DEVICE, dtype=y.dtype).view_as(y))
        found.append([y, leaf.grad, own.weight.grad, own.bias.grad, own.running_mean, own.running_var])
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(3, 40, 23, 17), (1, 130, 5, 7), (2, 1, 9, 9), (2, 3, 1, 2)])
def test_the_plain_numbers(shape, dtype, training):
    torch.manual_seed(0)
    norm = a_norm(shape[1], dtype).train(training)
    fused, plain = both_ways(norm, an_input(*shape, dtype=dtype))
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4  # float32: of inputs around 50
    assert torch.equal(fused[0], plain[0])
    for a, b in zip(fused[1:], plain[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("options", [dict(momentum=None), dict(track_running_stats=False)])
def test_running_statistics_as_pytorch_has_them(options):
    torch.manual_seed(0)
    fused = a_norm(8, torch.float64, **options)
    plain = copy.deepcopy(fused)
    for _ in range(3):
        x = an_input(2, 8, 6, 5, dtype=torch.float64)
        assert torch.equal(norm_fire(x, fused, 4, 4), integer_fire(plain(x), 4, 4))
    for a, b in zip(fused.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_rounds_once():
    """bfloat16 in and out; inside float32, as if the norm's output were not rounded before the spikes."""
    torch.manual_seed(0)
    x = an_input(2, 24, 9, 8).sub(50).bfloat16()
    fused, plain = both_ways(a_norm(24), x)
    assert fused[0].dtype == fused[1].dtype == torch.bfloat16
    assert (fused[0].float() != plain[0]).float().mean() < 1e-3
    assert (fused[1] - plain[1]).norm() < 0.02 * plain[1].norm()


@pytest.mark.parametrize("levels, divisor", [(1, 1.0), (8, 3.0), (255, 255.0)])
def test_levels_and_divisors(levels, divisor):
    torch.manual_seed(0)
    norm = a_norm(8, torch.float64)
    norm.weight.data.mul_(levels)
    fused, plain = both_ways(norm, an_input(2, 8, 12, 12, dtype=torch.float64), levels, divisor)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_ties_round_to_even_and_bounds_are_inside():
    norm = nn.BatchNorm2d(1, eps=0.0, device=DEVICE, dtype=torch.float64).eval()
    x = torch.tensor([-1e-9, 0, 0.5, 1.5, 2.5, 3.5, 4, 4 + 1e-9], device=DEVICE, dtype=torch.float64)
    leaf = x.view(1, 1, 2, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm_fire(leaf, norm, 4, 1)
    y.sum().backward()
    assert y.flatten().tolist() == [0, 0, 0, 2, 2, 4, 4, 4]
    assert leaf.grad.flatten().tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


def test_not_a_number_is_not_hidden():
    x = an_input(2, 4, 3, 3)
    x[1, 2, 0, 0] = float("nan")
    y = norm_fire(x, a_norm(4), 4, 4)
    assert y[:, 2].isnan().all() and not y[:, :2].isnan().any()


def test_spikes_are_kept_as_bytes_inside_a_region():
    torch.manual_seed(0)
    norm, conv = a_norm(8, torch.float64), nn.Conv2d(8, 4, 3, device=DEVICE, dtype=torch.float64)
    gradients = []
    for packed in (True, False):
        x = an_input(2, 8, 9, 9, dtype=torch.float64).mul_(0).add_(torch.arange(81, device=DEVICE).view(9, 9) / 20)
        leaf = x.requires_grad_()
        with packed_spikes(packed):
            z = conv(norm_fire(leaf, norm.eval(), 4, 4))
        if packed:
            kept = z.grad_fn._raw_saved_input.data
            assert kept.levels.dtype == torch.uint8 and 0 < kept.levels.max() <= 4
        gradients.append(torch.autograd.grad(z.square().sum(), [leaf, conv.weight]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_a_single_value_per_channel():
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm_fire(an_input(1, 4, 1, 1), a_norm(4), 4, 4)


def test_what_takes_the_plain_passes():
    x, norm = an_input(2, 4, 5, 5).requires_grad_(), a_norm(4)
    assert can_norm_fire(x, norm)
    assert not can_norm_fire(x[:0], norm)
    assert not can_norm_fire(x[0], norm)
    assert not can_norm_fire(x, nn.SyncBatchNorm(4))
    assert not can_norm_fire(x, nn.Identity())
    assert not can_norm_fire(x, nn.BatchNorm2d(4, affine=False))
    assert not can_norm_fire(x, norm.eval().requires_grad_(False))  # a receptive field: one product
    assert can_norm_fire(x.detach(), norm)


@pytest.mark.parametrize("again", [False, True])
def test_blocks_train_with_the_same_numbers(again):
    """With bytes kept for the backward pass, or with the forward pass run again in it."""
    torch.manual_seed(0)
    blocks = nn.Sequential(MixerBlock(8, ConvMixer(8)), TransformerBlock(8, 2)).double().to(DEVICE).train()
    for module in blocks.modules():  # no dead spikes
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, 0.5, 2)
    fused = copy.deepcopy(blocks)
    assert fuse_norms(fused) == 13
    x = an_input(2, 8, 7, 6, dtype=torch.float64).sub(49)
    for m in (blocks, fused):
        with packed_spikes(not again):
            y = checkpoint(m, x, use_reentrant=False) if again else m(x)
        y.square().sum().backward()
    for (name, a), b in zip(fused.named_parameters(), blocks.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-8, msg=name)
    assert max(b.grad.abs().max() for b in blocks.parameters()) > 1
    for a, b in zip(fused.buffers(), blocks.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_layers_that_someone_watches_run_themselves(monkeypatch):
    from sterf_plugins.neurons import integer

    used = []
    monkeypatch.setattr(integer, "norm_fire", lambda *arguments: used.append(1) or norm_fire(*arguments))
    spike, layer = IntegerSpike(), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(DEVICE)
    spike.fuse_norm = True
    x = an_input(2, 3, 6, 6)
    expected = spike(layer(x))
    torch.testing.assert_close(spike.after(layer, x), expected)
    torch.testing.assert_close(spike.after(layer[1], layer[0](x)), expected)
    assert len(used) == 2

    class Other(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    other = Other(3, device=DEVICE)
    assert torch.equal(spike.after(other, x), spike(other(x)))
    frozen = copy.deepcopy(layer).eval().requires_grad_(False)
    assert torch.equal(spike.after(frozen, x.clone().requires_grad_()), spike(frozen(x)))
    assert len(used) == 2
    for module in (spike, layer, layer[1]):
        seen = []
        handle = module.register_forward_hook(lambda *arguments, seen=seen: seen.append(1))
        assert torch.equal(spike.after(layer, x), spike(layer(x)))
        assert len(seen) == 2
        handle.remove()
    assert len(used) == 2


COMPILE = """
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from sterf_plugins.functional import norm_fire_kernels as kernels

for element, wide in (("fp32", tl.float32), ("bf16", tl.float32), ("fp64", tl.float64)):
    values = dict(LEVELS=4, SCALE=0.25, MAGIC=1.5 * 2**23, KEEP_COUNTS=True, TRAINING=True, TILES=8, BR=32, BC=128, ACC=wide)
    kinds = dict(rows="i32", C="i32", X="*" + element, Y="*" + element, G="*" + element, OUT="*" + element, COUNTS="*u8")
    for kernel in (kernels._statistics, kernels._fire, kernels._sums, kernels._input_gradient):
        names = [p.name for p in kernel.params]
        constants = {(i,): values[n] for i, n in enumerate(names) if n in values}
        signature = {n: "constexpr" if n in values else kinds.get(n, f"*{wide}") for n in names}
        code = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", {capability}, 32))
        print(kernel.__name__, element, len(code.asm["cubin"]))
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus(capability, monkeypatch):
    """To machine code, by Triton's own assembler, which needs no GPU."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code = COMPILE.replace("{capability}", str(capability))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout.splitlines()) == 12
