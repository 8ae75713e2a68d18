"""``TIMMBackbone`` and ``SDTV3`` take the same arguments, which do the same."""

import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.model import PretrainedInit  # noqa: E402
from torch import nn  # noqa: E402

from sterf_plugins.openmmlab.hooks.erf import _image_channels  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402
from sterf_plugins.stems import CovariantRFConv2d  # noqa: E402

ARCH = dict(embed_dims=[8, 16, 24, 32], num_heads=4)
TWINS = {
    "SDTV3": dict(type="sterf_plugins.SDTV3", arch=ARCH, mixer="srb"),
    "TIMMBackbone": dict(type="sterf_plugins.TIMMBackbone", model_name="sdtv3_nano", arch=ARCH, mixer="srb"),
}


@pytest.fixture(params=TWINS)
def build(request):
    def make(**options) -> nn.Module:
        torch.manual_seed(0)
        net = MODELS.build(TWINS[request.param] | options).double().train()
        with torch.no_grad():  # statistics of these images, so that every stage fires
            net(torch.randn(4, net_channels(net), 64, 64, dtype=torch.float64))
        return net

    return make


def net_channels(net: nn.Module) -> int:
    return next(m for m in net.modules() if isinstance(m, (nn.Conv2d, CovariantRFConv2d))).in_channels


def gradients(net: nn.Module, channels: int = 3) -> tuple[dict, int]:
    """Gradients by name, and the number of bytes that the forward pass keeps."""
    torch.manual_seed(1)
    x, kept = torch.randn(2, channels, 64, 64, dtype=torch.float64), {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        loss = sum(y.square().mean() for y in net(x))
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}, sum(kept.values())


def test_frozen_stages_get_no_gradient(build):
    net = build(frozen_stages=1)
    found, _ = gradients(net)
    names = {name for name, _ in net.named_parameters()}
    assert names - found.keys() == {name for name in names if "stages.0." in name or "stages.1." in name} != set()


def test_norm_eval_keeps_statistics(build):
    net = build(norm_eval=True)
    before = {name: value.clone() for name, value in net.named_buffers()}
    gradients(net)
    assert before and all(torch.equal(value, before[name]) for name, value in net.named_buffers())


@pytest.mark.slow
@pytest.mark.parametrize("option", ["with_cp", "memory_efficient"])
@pytest.mark.sweep
def test_recomputation_changes_no_gradient(build, option):
    (plain, bytes_plain), (other, bytes_other) = gradients(build()), gradients(build(**{option: True}))
    assert plain.keys() == other.keys() and any(value.abs().sum() > 0 for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)
    assert bytes_other < bytes_plain


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_in_channels_and_noise_of_the_erf_hook(build, channels):
    net = build(in_channels=channels)
    holder = nn.Module()
    holder.backbone = net
    assert _image_channels(holder) == channels
    assert net(torch.randn(1, channels, 64, 64, dtype=torch.float64))


def test_out_indices_stem_and_mixer(build):
    net = build(out_indices=(1, 3), stem="covariant", mixer=dict(type="mlpixer", ratio=2))
    maps = net(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert [y.shape[1] for y in maps] == [8, 24] and net.out_strides == (4, 16)
    kinds = {type(m).__name__ for m in net.modules()}
    assert {"CovariantRFConv2d", "MLPixer"} <= kinds


def test_a_stem_without_a_type_is_covariant(build):
    net = build(stem=dict(init="rf", bank=dict(sigmas=(1.0, 1.5), kernel_size=9)))
    fields = [m for m in net.modules() if isinstance(m, CovariantRFConv2d)]
    assert len(fields) == 1 and fields[0].bank.kernel_size == 9 and fields[0].stride == (2, 2)
    assert all(y.abs().sum() > 0 for y in net(torch.randn(1, 3, 64, 64, dtype=torch.float64)))


@pytest.mark.slow
def test_the_weights_of_a_teacher(build, tmp_path):
    """The entries below a prefix are those of a backbone inside a larger model; a wrong prefix is not passed over."""
    teacher, student = build(), build(norm_eval=True)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    state = {
        f"{name}.backbone.{k}": v
        for name, net in (("teacher", teacher), ("student", student))
        for k, v in net.state_dict().items()
    }
    torch.save(dict(state_dict=state), tmp_path / "both.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "both.pth"))
    net = build(init_cfg=init | dict(prefix="teacher.backbone"))
    net.init_weights()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in teacher.state_dict().items())
    with pytest.raises(ValueError, match=r"`prefix` is 'tutor', and no entry of .* they start with student, teacher"):
        build(init_cfg=init | dict(prefix="tutor")).init_weights()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Pretrained", PretrainedInit])
@pytest.mark.sweep
def test_init_cfg_loads_what_was_saved(build, kind, tmp_path):
    saved = build()
    torch.save(dict(state_dict=saved.state_dict()), tmp_path / "saved.pth")
    net = build(norm_eval=True, init_cfg=dict(type=kind, checkpoint=str(tmp_path / "saved.pth")))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    net.init_weights()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in saved.state_dict().items())


def test_other_images_name_the_argument_of_a_config(build):
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\).*`in_channels`"):
        build()(torch.zeros(1, 4, 64, 64, dtype=torch.float64))


@pytest.mark.parametrize("options", [dict(in_channels=0), dict(frozen_stages=9), dict(out_indices=(9,))])
def test_refusals_name_what_was_written(build, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` is"):
        build(**options)


def test_the_names_of_the_other_side():
    net = MODELS.build(TWINS["TIMMBackbone"] | dict(in_chans=2))
    assert net_channels(net) == 2
    with pytest.raises(ValueError, match="`in_channels` is 4 and `in_chans` 2; give `in_channels` alone"):
        MODELS.build(TWINS["TIMMBackbone"] | dict(in_chans=2, in_channels=4))
    with pytest.raises(ValueError, match="`in_chans` is 2; in a config it is `in_channels`"):
        MODELS.build(TWINS["SDTV3"] | dict(in_chans=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stem="conv"), r"`stem` is {'type': 'conv'}; resnet18 takes none.*dict\(init='rf'\)"),
        (dict(mixer="srb"), "`mixer` is 'srb'; resnet18 takes none"),
        (dict(memory_efficient=True), "`memory_efficient` is True, but resnet18 is not of this package"),
    ],
)
def test_what_stock_models_lack(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type="sterf_plugins.TIMMBackbone", model_name="resnet18", **options))


def test_a_model_without_convolutions_has_no_noise():
    with pytest.raises(ValueError, match="no convolution that tells its image channels"):
        _image_channels(nn.Linear(2, 2))
