"""SDT-V3 written the straightforward way, as the other side of the benchmarks.

It computes in float32 on contiguous NCHW tensors. A spike is a custom autograd function that keeps its input, and a
division behind it; q, k and v have separate convolutions, MLPs are Conv1d, and attention is (q k^T) v with its (N, N)
scores. The weights are copied from our model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from sterf_plugins.layers import DepthwiseConv2d


class Round(torch.autograd.Function):
    """Round to 0..levels; the gradient is passed on where the input lies in this range."""

    @staticmethod
    def forward(ctx, x, levels):
        ctx.save_for_backward(x)
        ctx.levels = levels
        return torch.round(torch.clamp(x, 0, levels))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ((x >= 0) & (x <= ctx.levels)), None


def spike(x, levels=4):
    """Integer spikes divided by ``levels``."""
    return Round.apply(x, levels) / levels


def sep_conv(m, x):
    """The branch of a separable convolution ``m``."""
    for part in (m.pw1, m.dw, m.pw2):
        x = part.bn(part.conv(spike(x)))
    return x


def hidden_norm(m, tokens):
    """The norm of the hidden tokens (..., hidden) of a mixer, which may be none."""
    return m.bn1(tokens.flatten(0, -2)).view_as(tokens)


def mixer(m, x):
    """The branch of a channel mixer ``m``: ConvMixer, SRB or MLPixer, in either layout."""
    b, c, h, w = x.shape
    kind = type(m).__name__
    if kind == "ConvMixer":
        return m.bn2(m.conv2(spike(m.bn1(m.conv1(spike(x))))))
    if m.layout == "raster":
        hidden = m.drop1(hidden_norm(m, m.fc1(spike(x).reshape(b, h * w, c)))).reshape(b, -1, h, w)
    else:
        hidden = m.drop1(hidden_norm(m, m.fc1(spike(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2).contiguous()
    hidden = spike(hidden)
    if kind == "SRB":
        return m.bn2(m.conv2(hidden))
    if m.layout == "raster":
        return m.drop2(m.fc2(hidden.reshape(b, h * w, -1))).reshape(b, c, h, w)
    return m.drop2(m.fc2(hidden.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).contiguous()


def downsample(m, x, first=False):
    """A downsampling ``m``; the first one reads images instead of spikes."""
    return m.bn(m.conv(x if first else spike(x)))


def mixer_block(m, x):
    """A block ``m`` of the first stages."""
    x = x + sep_conv(m.sep_conv, x)
    return x + mixer(m.mixer, x)


class PlainAttention(nn.Module):
    """Spiking attention with separate q, k and v convolutions and with (N, N) scores."""

    def __init__(self, ours):
        super().__init__()
        self.heads, self.scale, self.proj = ours.num_heads, ours.scale, ours.proj
        start, self.parts = 0, nn.ModuleList()
        for width in ours.split:
            rows = slice(start, start + width)
            conv = nn.Conv2d(ours.split[0], width, 1, bias=False)
            bn = nn.BatchNorm2d(width)
            with torch.no_grad():
                conv.weight.copy_(ours.qkv.conv.weight[rows])
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(bn, name).copy_(getattr(ours.qkv.bn, name)[rows])
            self.parts.append(nn.Sequential(conv, bn))
            start += width

    def forward(self, x):
        b, _, h, w = x.shape
        x = spike(x)
        q, k, v = (
            spike(p(x)).flatten(2).transpose(-1, -2).reshape(b, h * w, self.heads, -1).permute(0, 2, 1, 3).contiguous()
            for p in self.parts
        )
        out = (q @ k.transpose(-2, -1)) @ v * self.scale
        out = out.transpose(2, 3).reshape(b, -1, h, w)
        return self.proj.bn(self.proj.conv(spike(out)))


class PlainLinearBN(nn.Module):
    """A linear layer as Conv1d, then BatchNorm1d; (B, C, N) in."""

    def __init__(self, ours):
        super().__init__()
        self.conv = nn.Conv1d(ours.conv.in_channels, ours.conv.out_channels, 1)
        self.bn = nn.BatchNorm1d(ours.conv.out_channels)
        with torch.no_grad():
            self.conv.weight.copy_(ours.conv.weight.flatten(2))
            self.conv.bias.copy_(ours.conv.bias)
        self.bn.load_state_dict(ours.bn.state_dict())

    def forward(self, x):
        return self.bn(self.conv(x))


class PlainTransformer(nn.Module):
    """A transformer block of the plain layers; (B, C, H, W) in and out."""

    def __init__(self, ours):
        super().__init__()
        self.sep_conv, self.attn = ours.sep_conv, PlainAttention(ours.attn)
        self.fc1, self.fc2 = PlainLinearBN(ours.mlp.fc1), PlainLinearBN(ours.mlp.fc2)

    def forward(self, x):
        if self.sep_conv is not None:
            x = x + sep_conv(self.sep_conv, x)
        x = x + self.attn(x)
        b, c, h, w = x.shape
        tokens = self.fc2(spike(self.fc1(spike(x.flatten(2)))))
        return x + tokens.reshape(b, c, h, w)


def plain_layers(module):
    """Stock BatchNorm and depthwise convolution in place of ours."""
    for name, child in module.named_children():
        if isinstance(child, DepthwiseConv2d):
            new = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, padding=child.padding, groups=child.groups,
                bias=False,
            )  # fmt: skip
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        for stock in (nn.BatchNorm2d, nn.BatchNorm1d):
            if isinstance(child, stock) and type(child) is not stock:
                new = stock(child.num_features)
                new.load_state_dict(child.state_dict())
                setattr(module, name, new)
        plain_layers(getattr(module, name))
    return module


class PlainSDTV3(nn.Module):
    """The plain form of ``ours`` (a ``SDTV3``), with a copy of its weights; (B, 3, H, W) -> tuple of features."""

    def __init__(self, ours):
        super().__init__()
        import copy

        ours = plain_layers(copy.deepcopy(ours))
        self.out_indices, self.stages = ours.out_indices, ours.stages
        for stage in self.stages[3:]:
            stage.blocks = nn.Sequential(*[PlainTransformer(b) for b in stage.blocks])

    def forward(self, x):
        outputs = []
        for i, stage in enumerate(self.stages):
            x = downsample(stage.downsample, x, first=i == 0)
            for block in stage.blocks:
                x = mixer_block(block, x) if i < 3 else block(x)
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)


def step(model, images):
    """One training step's work: forward, a scalar of all features, backward."""
    loss = sum(F.mse_loss(y, torch.zeros_like(y)) for y in model(images))
    loss.backward()
    return loss
