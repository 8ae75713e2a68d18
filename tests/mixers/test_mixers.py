import pytest
import torch
from live import equal
from torch import nn
from torch.nn import functional as F

from sterf_plugins import plugins
from sterf_plugins.erf.calibrate import calibrate
from sterf_plugins.functional import from_tokens, to_tokens
from sterf_plugins.layers import MixerBlock
from sterf_plugins.mixers import SRB, ConvMixer, MLPixer
from sterf_plugins.testing import check_backbone, check_mixer

MIXERS = [ConvMixer, MLPixer, SRB]
RELEASED = dict(layout="raster", norm_hidden=False)


def spike(x):
    return torch.round(x.clamp(0, 4)) / 4


def raster_linear(x, weight):
    """The raw-buffer Linear, written with flat indices: run g of C numbers -> run g of eC numbers."""
    batch, channels, height, width = x.shape
    hidden = weight.shape[0]
    out = torch.empty(batch, hidden * height * width)
    for b in range(batch):
        flat = [float(v) for v in x[b].reshape(-1)]
        for g in range(height * width):
            run = torch.tensor(flat[g * channels : (g + 1) * channels])
            out[b, g * hidden : (g + 1) * hidden] = weight @ run
    return out.view(batch, hidden, height, width)


@pytest.mark.parametrize("size", [(4, 6), (3, 5)])
def test_raster_is_a_linear_over_runs_of_the_buffer(size):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size) * 2
    mlpixer, srb = MLPixer(4, 3, **RELEASED).eval(), SRB(4, 3, **RELEASED).eval()
    with torch.no_grad():
        for m in (mlpixer, srb):
            m.fc1.weight.normal_()
        mlpixer.fc2.weight.normal_()
        hidden = spike(raster_linear(spike(x), mlpixer.fc1.weight))
        # The second Linear reads runs of eC numbers and writes runs of C numbers.
        tokens = hidden.reshape(2, -1, 12) @ mlpixer.fc2.weight.T
        assert torch.allclose(mlpixer(x), tokens.reshape(x.shape), atol=1e-5)
        hidden = spike(raster_linear(spike(x), srb.fc1.weight))
        expected = srb.bn2(F.conv2d(hidden, srb.conv2.weight, padding=1))
        assert torch.allclose(srb(x), expected, atol=1e-5)


def test_channel_layout_is_a_pointwise_convolution():
    torch.manual_seed(0)
    mixer = MLPixer(4, 3, layout="channel", norm_hidden=False).eval()
    x = torch.randn(2, 4, 5, 7) * 2
    with torch.no_grad():
        mixer.fc1.weight.normal_()
        mixer.fc2.weight.normal_()
        hidden = F.conv2d(spike(x), mixer.fc1.weight[..., None, None])
        expected = F.conv2d(spike(hidden), mixer.fc2.weight[..., None, None])
        assert torch.allclose(mixer(x), expected, atol=1e-5)


def test_layouts_have_the_same_parameters_and_are_different_functions():
    raster, channel = SRB(8, layout="raster").eval(), SRB(8, layout="channel").eval()
    with pytest.warns(UserWarning, match="saved with layout='raster' are loaded into a model with layout='channel'"):
        channel.load_state_dict(raster.state_dict())
    with torch.no_grad():
        for m in (raster, channel):
            m.fc1.weight.fill_(0.5)
    x = torch.randn(1, 8, 6, 6)
    assert not torch.allclose(raster(x), channel(x))


def test_norm_hidden_wakes_the_branch_up_at_initialisation():
    """With the released initialisation and no BN the hidden spikes are all silent."""
    torch.manual_seed(0)
    x = torch.randn(4, 16, 14, 14)
    rates = {}
    for norm_hidden in (False, True):
        mixer = MLPixer(16, norm_hidden=norm_hidden).train()
        mixer.spike2.register_forward_hook(lambda m, i, o, key=norm_hidden: rates.update({key: o.mean().item()}))
        mixer(x)
    assert rates[False] == 0
    assert rates[True] > 0.05


@pytest.mark.parametrize("mixer", MIXERS)
def test_contract(mixer):
    check_mixer(mixer)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=8, layout="colum"), "`layout` is 'colum'; allowed: 'raster', 'channel'"),
        (dict(dim=8, levels=0), "`levels` is 0"),
        (dict(dim=8, drop=1.5), "`drop` is 1.5"),
        (dict(dim=0), "`dim` is 0"),
        (dict(dim=8, ratio="4"), "`ratio` is '4'"),
        (dict(dim=8, norm_hidden="no"), "`norm_hidden` is 'no'"),
    ],
)
def test_bad_input(mixer, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mixer(**arguments)


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match="`layout` is 'pixels'; allowed: 'raster', 'channel'"):
        to_tokens(torch.zeros(1, 2, 3, 3), "pixels")
    with pytest.raises(ValueError, match="`layout` is 'pixels'"):
        from_tokens(torch.zeros(1, 9, 2), (3, 3), "pixels")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.compiler, "_is_exporting_flag"), reason="PyTorch 2.6 does not tell of an export")
@pytest.mark.parametrize(("mixer", "axis"), [("mlpixer", 2), ("srb", 3)])
def test_a_raster_mixer_is_not_exported_with_a_dynamic_size(mixer, axis, tmp_path):
    """Which pixels are grouped depends on the size; the batch may be dynamic."""
    x, dynamic = torch.randn(2, 8, 16, 16), ({axis: torch.export.Dim("size", min=8, max=64)},)
    raster = plugins.resolve("mixers", mixer)(8, 4, layout="raster").eval()
    with pytest.raises(ValueError, match=r"raster layout cannot be exported with a dynamic height or width"):
        torch.export.export(raster, (x,), dynamic_shapes=dynamic, strict=False)
    with pytest.raises(Exception, match=r"Unsupported hasattr|Constraints violated"):
        torch.export.export(raster, (x,), dynamic_shapes=dynamic, strict=True)
    for strict in (False, True):
        torch.export.export(raster, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)
    if mixer == "srb":
        return
    pytest.importorskip("onnxscript")
    with pytest.raises(Exception, match="Failed to export") as error:
        torch.onnx.export(raster, (x,), str(tmp_path / "a.onnx"), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert "raster layout cannot be exported" in str(error.value.__cause__)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["mlpixer", "srb"])
def test_a_raster_mixer_is_compiled_for_any_size(mixer):
    module = calibrate(plugins.resolve("mixers", mixer)(8, 4, layout="raster"), torch.randn(4, 8, 16, 16))
    compiled = torch.compile(module, dynamic=True, backend="eager", fullgraph=True)
    for size in ((16, 16), (24, 16)):
        x = torch.randn(2, 8, *size)
        assert equal(compiled(x), module(x))


@pytest.mark.parametrize("size", [(1, 8, 4, 4), (2, 1, 4, 4), (2, 8, 1, 1)])
def test_a_mixer_that_changes_the_shape_is_not_spread_over_the_map(size):
    class Wrong(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(size)

    with pytest.raises(ValueError, match="the mixer Wrong gave"):
        MixerBlock(8, Wrong())(torch.randn(2, 8, 4, 4))


@pytest.mark.parametrize("output", [None, (torch.zeros(1),)])
def test_a_mixer_gives_one_tensor(output):
    block = MixerBlock(8, torch.nn.Identity())
    block.mixer.forward = lambda x: output
    with pytest.raises(TypeError, match=r"the mixer Identity gave (NoneType|tuple); it must give one tensor"):
        block(torch.randn(2, 8, 4, 4))


def test_a_mixer_without_a_gradient_is_explained():
    class Detached(torch.nn.Conv2d):
        def __init__(self, dim, ratio):
            super().__init__(dim, dim, 1)

        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(AssertionError, match="has no gradient"):
        check_mixer(Detached)


BROKEN = {
    "without a surrogate": (lambda x, y, training: y.round(), "input got no gradient"),
    "no surrogate in eval mode": (lambda x, y, training: y if training else y.round(), "input got no gradient"),
    "silent": (lambda x, y, training: 0 * y, "input got no gradient"),
    "NaN": (lambda x, y, training: y / 0 * 0, "NaN or infinite numbers"),
    "in place in eval mode": (lambda x, y, training: y if training else x.detach().mul_(0.5) + y, "changed its input"),
    "half precision": (lambda x, y, training: y.half(), "an input of torch.float32 gave an output of torch.float16"),
    "random": (lambda x, y, training: y * torch.rand(()), "state survives"),
}


@pytest.mark.parametrize(("function", "message"), BROKEN.values(), ids=BROKEN)
def test_the_checks_of_plugins_find_what_is_wrong(function, message):
    class Broken(nn.Module):
        out_channels, out_strides = (8,), (1,)

        def __init__(self, dim, ratio):
            super().__init__()
            self.conv = nn.Conv2d(dim, dim, 1)

        def forward(self, x):
            return function(x, self.conv(x), self.training)

    class Backbone(Broken):
        def forward(self, x):
            return (super().forward(x),)

    with pytest.raises(AssertionError, match=message):
        check_mixer(Broken, dims=(8,))
    with pytest.raises(AssertionError, match=message):
        check_backbone(lambda: Backbone(8, 1), in_chans=8, size=(8, 12))
