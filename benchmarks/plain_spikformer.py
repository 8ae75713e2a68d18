"""A Spikformer of the published size, with SpikingJelly's neurons, as something to measure.

(T, B, 3, H, W), or (B, 3, H, W) that is repeated T times -> (T, B, dim, N), with N = H W / 256 positions. Every neuron
is reset at the start of the forward pass.
"""

import re
from itertools import pairwise

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn


def lif(threshold=1.0):
    """A multi-step LIF layer with the published constants."""
    return neuron.LIFNode(
        tau=2.0, v_threshold=threshold, surrogate_function=surrogate.Sigmoid(4.0), detach_reset=True, step_mode="m"
    )


def over_time(module, x):
    """Apply a module without a time axis to x (T, B, ...)."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ConvLIF(nn.Module):
    """Convolution, BatchNorm and LIF neurons, then max-pooling if asked for; (T, B, C, ...) in."""

    def __init__(self, in_dim, out_dim, kind=nn.Conv2d, bias=False, pool=False, threshold=1.0):
        super().__init__()
        kernel = 3 if kind is nn.Conv2d else 1
        norm = nn.BatchNorm2d if kind is nn.Conv2d else nn.BatchNorm1d
        self.conv = nn.Sequential(kind(in_dim, out_dim, kernel, padding=kernel // 2, bias=bias), norm(out_dim))
        self.lif = lif(threshold)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else None

    def forward(self, x):
        x = self.lif(over_time(self.conv, x))
        return x if self.pool is None else over_time(self.pool, x)


class Attention(nn.Module):
    """Spiking self-attention without softmax; (T, B, C, N) in and out."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (ConvLIF(dim, dim, nn.Conv1d) for _ in range(3))
        self.lif = lif(0.5)
        self.proj = ConvLIF(dim, dim, nn.Conv1d, bias=True)

    def forward(self, x):  # (T, B, C, N)
        q, k, v = (branch(x).unflatten(2, (self.heads, -1)) for branch in (self.q, self.k, self.v))
        mixed = (v @ k.transpose(-1, -2)) @ q * 0.125
        return self.proj(self.lif(mixed.flatten(2, 3)))


class Block(nn.Module):
    """Attention and MLP, each with a residual; (T, B, C, N) in and out."""

    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.attn = Attention(dim, heads)
        self.mlp = nn.Sequential(
            ConvLIF(dim, dim * ratio, nn.Conv1d, bias=True), ConvLIF(dim * ratio, dim, nn.Conv1d, bias=True)
        )

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class PlainSpikformer(nn.Module):
    """Spikformer-8-512 by default: 8 blocks, 512 channels, 8 heads, stride 16."""

    def __init__(self, depth=8, dim=512, heads=8, ratio=4, T=4):
        super().__init__()
        self.T = T
        widths = [3, dim // 8, dim // 4, dim // 2, dim]
        self.stem = nn.Sequential(*[ConvLIF(a, b, pool=True) for a, b in pairwise(widths)])
        self.position = ConvLIF(dim, dim)
        self.blocks = nn.Sequential(*[Block(dim, heads, ratio) for _ in range(depth)])

    def copy_weights(self, ours):
        """Take over weights and statistics of a ``sterf_plugins.backbones.Spikformer``, and return the model."""
        weights = ours.state_dict()
        state = {}
        for key, value in self.state_dict().items():
            name, part, rest = re.fullmatch(r"(.*)\.conv\.([01])\.(.*)", key).groups()
            name = re.sub(r"^stem\.", "stages.0.downsample.convs.", name)
            name = re.sub(r"^position", "stages.0.downsample.position", name)
            name = re.sub(r"^blocks\.(\d+)\.", r"stages.\1.blocks.0.", name)
            name = re.sub(r"mlp\.([01])$", lambda m: f"mlp.fc{int(m[1]) + 1}", name)
            branch = re.fullmatch(r"(.*attn)\.([qkv])", name)
            tail = f"conv_bn.{('conv', 'bn')[int(part)]}.{rest}"
            if branch and rest != "num_batches_tracked":
                joined = weights[f"{branch[1]}.qkv.{tail}"]
                taken = joined.chunk(3)["qkv".index(branch[2])]
            else:
                taken = weights[f"{branch[1]}.qkv.{tail}" if branch else f"{name}.{tail}"]
            state[key] = taken.reshape(value.shape)
        self.load_state_dict(state)
        return self

    def forward(self, x):
        functional.reset_net(self)
        x = self.stem(x if x.ndim == 5 else x.expand(self.T, *x.shape))
        x = (x + self.position(x)).flatten(3)
        return self.blocks(x)


@torch.no_grad()
def calibrate(model, images):
    """Set weights that let the neurons fire, and BatchNorm statistics of these images; the model in eval mode."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv1d)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            module.reset_running_stats()
    model.train()
    model(images)
    return model.eval()
