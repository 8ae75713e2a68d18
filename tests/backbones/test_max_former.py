"""Max-Former beside SpikingJelly's own modules, with the same weights; what its layers read; the release's sizes."""

import re

import pytest
import torch
from live import images, live
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.maxformer import MaxFormer as SpikingJellys
from torch import nn

from sterf_plugins.backbones import MaxFormer
from sterf_plugins.erf import compute_erf
from sterf_plugins.firing import FiringRates

SIZE = dict(depth=4, dim=64, num_heads=4)
# our names -> SpikingJelly's
NAMES = [
    (r"stages\.0\.downsample\.conv(\d)\.(?:conv_bn\.)?(conv|bn)\.", r"patch_embed1.\2\1."),
    (r"stages\.1\.downsample\.conv(\d)\.(?:conv_bn\.)?(conv|bn)\.", r"patch_embed2.\2\1."),
    (r"stages\.2\.downsample\.conv(\d)\.(?:conv_bn\.)?(conv|bn)\.", r"patch_embed3.\2\1."),
    *((rf"stages\.{n}\.downsample\.shortcut\.{part}\.", f"patch_embed{n + 1}.shortcut.{i}.")
      for n in range(3) for i, part in enumerate(("conv", "bn"))),
    *((rf"stages\.{n}\.blocks\.(\d+)\.mlp\.fc(\d)\.{part}\.", rf"stage{n + 1}.\1.mlp.{theirs}\2.")
      for n in range(3) for part, theirs in (("conv", "fc"), ("bn", "bn"))),
    *((rf"stages\.{n}\.blocks\.(\d+)\.attn\.dw\.{part}\.", rf"stage{n + 1}.\1.{theirs}.")
      for n in range(2) for part, theirs in (("conv", "dwconv"), ("bn", "bn"))),
    *((rf"stages\.2\.blocks\.(\d+)\.attn\.(qkv|proj)\.(?:conv_bn\.)?{part}\.", rf"stage3.\1.attn.\2.{i}.")
      for i, part in enumerate(("conv", "bn"))),
]  # fmt: skip


def of_spikingjelly(ours: MaxFormer) -> nn.Module:
    """The network of the release out of SpikingJelly's modules, with our weights.

    Its ImageNet model has stem, depthwise blocks and MLPs as released. Its CIFAR model has the released attention, which
    reads spikes, and the convolutions without a bias between the stages.
    """
    options = dict(embed_dims=SIZE["dim"], depths=(1, 2, SIZE["depth"] - 3), num_classes=5, detach_reset=True)
    net, cifar = SpikingJellys(**options), SpikingJellys(cifar=True, **options)
    net.patch_embed2, net.patch_embed3, net.stage3 = cifar.patch_embed2, cifar.patch_embed3, cifar.stage3
    for block in net.stage3:
        block.attn.num_heads = SIZE["num_heads"]
    state = {k: torch.zeros_like(v) for k, v in net.state_dict().items() if re.match(r"patch_embed1.*bias", k)}
    for key, value in ours.state_dict().items():
        name = key
        for pattern, theirs in NAMES:
            name = re.sub(f"^{pattern}", theirs, name)
        state[name] = value.squeeze(-1) if re.search(r"attn\.(qkv|proj)\.0\.weight", name) else value
    net.double().load_state_dict(state, strict=True)
    return net.eval()


def test_it_gives_what_spikingjellys_modules_give():
    torch.manual_seed(0)
    ours = live(MaxFormer(num_classes=5, keep_time=True, **SIZE).double())
    theirs, x = of_spikingjelly(ours), images(dtype=torch.float64)
    maps = {}
    for n in (1, 2, 3):
        getattr(theirs, f"stage{n}")[-1].register_forward_hook(lambda m, a, y, n=n: maps.update({n: y}))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    logits, expected = ours(leaves[0]), theirs(leaves[1])
    functional.reset_net(theirs)
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    for y, theirs_map in zip(ours.run_stages(x), maps.values(), strict=True):
        assert theirs_map.std(1).max() > 1e-3 and theirs_map.std(0).max() > 1e-3  # images differ, and so do steps
        torch.testing.assert_close(y, theirs_map, rtol=0, atol=1e-9)
    grads = [torch.autograd.grad(y.square().sum(), leaf)[0] for y, leaf in zip((logits, expected), leaves, strict=True)]
    assert grads[1].norm() > 0
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9 * grads[1].abs().max().item())


def inputs_that_are_no_spikes(model, x):
    """Names of the weight layers that read anything but zeros and ones; every layer reads something."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        model(x)
    assert len(seen) == 24 and all(x.any() for x in seen.values())
    return [name for name, x in seen.items() if not ((x == 0) | (x == 1)).all()]


def test_every_weight_but_the_first_reads_spikes():
    model = live(MaxFormer(num_classes=5, **SIZE))
    assert inputs_that_are_no_spikes(model, images()) == ["stages.0.downsample.conv1.conv_bn.conv"]


def test_spikingjellys_imagenet_model_is_another_network():
    """Its q, k and v read potentials, which is why we do not wrap it; should this fail, look at theirs again.

    (Its head reads the mean of the spikes over time, which gives the same as the mean of the logits here.)
    """
    torch.manual_seed(0)
    theirs = SpikingJellys(embed_dims=64, depths=(1, 2, 1), num_classes=5).train()
    assert inputs_that_are_no_spikes(theirs, images()) == ["patch_embed1.conv1", "stage3.0.attn.qkv_conv_bn.0", "head"]


def quiet(model, x):
    """Names of the neuron layers with a firing rate of at most 0.005."""
    with FiringRates(model) as rates, torch.no_grad():
        model(x)
    assert len(rates.layers) == 20
    return [name for name, layer in rates.layers.items() if layer.rate <= 0.005]


def test_all_layers_fire_but_the_attention_of_a_fresh_network():
    """q, k and v start with few spikes, so that q (k^T v) / 8 hardly reaches the published threshold of 0.5."""
    torch.manual_seed(0)
    model = MaxFormer(**SIZE).train()
    assert quiet(model, torch.randn(4, 3, 64, 64)) == ["stages.2.blocks.0.attn.attend.lif.node"]
    assert quiet(live(model), images()) == []


def test_fields_grow_with_depth():
    torch.manual_seed(0)
    result = compute_erf(live(MaxFormer(**SIZE)), images())
    assert result.layers == ["stages.0", "stages.1", "stages.2"] and not result.failed and not result.warnings
    shares = [result.area_ratio(layer, 0.9) for layer in result.layers]
    assert shares == sorted(shares) and shares[0] < 0.3 < shares[2]


@pytest.mark.parametrize(("dim", "parameters"), [(384, 16237240), (512, 28653480), (768, 63992200)])
def test_sizes_of_the_release(dim, parameters):
    """Counted in a network of the release's layers; the paper reports 63.99 M for the last."""
    with torch.device("meta"):
        model = MaxFormer(10, dim, dim // 64, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == parameters
