"""What a model of ours has saved, it can load, whatever mixers and stems it has: through mmengine, timm and the tools."""

import argparse
import re

import pytest
import timm
import torch
from live import equal, images, live, same
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import nn

import sterf_plugins
from sterf_plugins.backbones import SDTV3, MetaSDT, convert_state_dict
from sterf_plugins.checkpoints import read_checkpoint, state_dict_of
from sterf_plugins.cli.loading import load_model
from sterf_plugins.testing import check_mixer, check_stem

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from sterf_plugins.openmmlab.configs.image_checks import other_images  # noqa: E402

ARCH = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


class Gate(nn.Module):
    """A mixer of another package, with names of its own."""

    def __init__(self, dim: int, ratio: int):
        super().__init__()
        self.gate = nn.Conv2d(dim, ratio * dim, 1)
        self.out = nn.Conv2d(ratio * dim, dim, 1)

    def forward(self, x):
        return self.out(self.gate(x).sigmoid())


class Shift(nn.Module):
    """A stem of another package, whose entries have the names of ours but other shapes."""

    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(in_chans, embed_dim, 3, stride, 1)
        self.bn = nn.BatchNorm2d(embed_dim)

    def forward(self, x):
        return self.bn(self.conv(x))


OPTIONS = {
    "a mixer of another package": dict(mixer=Gate),
    "a mixer with a ratio of its own": dict(mixer=dict(type="srb", ratio=6)),
    "a mixer with a hidden norm": dict(mixer="mlpixer", norm_hidden=True),
    "the covariant stem": dict(stem="covariant"),
    "a learned covariant stem": dict(stem=dict(type="covariant", learn=("sigma", "angle"))),
    "a stem of another package": dict(stem=Shift),
    "factors of layers": dict(layer_scale=0.1),
}


def trained(build, **options) -> nn.Module:
    """A model whose norms have statistics of their own."""
    torch.manual_seed(1)
    return live(build(**options))


@pytest.mark.parametrize("wrapped", ["", "backbone.", "module.", "module.backbone.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.sweep
@pytest.mark.slow
def test_mmengine_backbones_load_what_they_saved(tmp_path, kind, wrapped):
    options = dict(arch=ARCH, **OPTIONS[kind])
    model = trained(SDTV3, **options)
    state = {f"{wrapped}{k}": v for k, v in model.state_dict().items()}
    if wrapped.endswith("backbone."):  # the other parts of a detector of any kind
        state[f"{wrapped.removesuffix('backbone.')}query_head.weight"] = torch.ones(1)
    torch.save(dict(state_dict=state), tmp_path / "own.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth"))
    backbone = MODELS.build(dict(type="sterf_plugins.SDTV3", init_cfg=init, **options))
    backbone.init_weights()
    assert same(model, backbone)


@pytest.mark.parametrize("change", ["one less", "one more", "another shape"])
def test_own_entries_load_strictly(tmp_path, change):
    state = trained(SDTV3, arch=ARCH, mixer=Gate).state_dict()
    key = "stages.1.blocks.0.mixer.gate.weight"
    if change == "one less":
        del state[key]
    elif change == "one more":
        state[f"{key}_mask"] = torch.ones(1)
    else:
        state[key] = state[key][:-1]
    torch.save(dict(state_dict=state), tmp_path / "own.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth"))
    backbone = MODELS.build(dict(type="sterf_plugins.SDTV3", init_cfg=init, arch=ARCH, mixer=Gate))
    with pytest.raises(ValueError, match=rf"holds another model, which is not.*1 entries differ, such as '{key}"):
        backbone.init_weights()


def test_a_plugins_stem_keeps_its_values_under_weights_of_a_conv_stem(tmp_path):
    """Weights of a model with the stock stem, a release or ours, go into all but the stem."""
    torch.save(dict(state_dict=trained(SDTV3, arch=ARCH).state_dict()), tmp_path / "own.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth"))
    for stem in ("covariant", Shift):
        backbone = MODELS.build(dict(type="sterf_plugins.SDTV3", init_cfg=init, arch=ARCH, stem=stem))
        before = {k: v.clone() for k, v in backbone.stages[0].downsample.state_dict().items()}
        backbone.init_weights()
        assert all(torch.equal(v, before[k]) for k, v in backbone.stages[0].downsample.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.sweep
def test_timm_models_load_what_they_saved(tmp_path, kind):
    options = dict(arch=ARCH, num_classes=5, **OPTIONS[kind])
    model = trained(lambda **o: timm.create_model("sdtv3_nano", **o), **options)
    torch.save(dict(state_dict=model.state_dict(), args=None), tmp_path / "own.pth")
    overlay = dict(file=str(tmp_path / "own.pth"), num_classes=5)
    loaded = timm.create_model("sdtv3_nano", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    x = images()
    assert equal(model.eval().forward_features(x), loaded.eval().forward_features(x))


def test_the_tools_refuse_a_checkpoint_with_more_in_it_than_the_model_has(tmp_path):
    """Left out, the norms would make the network another one without a word."""
    path = str(tmp_path / "own.pth")
    torch.save(dict(state_dict=timm.create_model("sdtv3_nano_srb").state_dict()), path)
    with pytest.raises(ValueError, match=r"it has 20 entries more in parts of the model, such as stages\.0.*bn1"):
        load_model("sdtv3_nano_srb_released", path)
    load_model("sdtv3_nano_srb", path)
    load_model("sdtv3_nano_srb(num_classes=0)", path)  # no head: it is not needed


@pytest.mark.parametrize("wrapped", [[], ["module"], ["_orig_mod", "module"]])
def test_the_tools_tell_of_other_settings_in_one_line(tmp_path, capsys, wrapped):
    """The layout of mixers is in no shape: the weights fit, and the network would be another one in silence."""
    model = timm.create_model("sdtv3_nano_srb")
    for name in wrapped:
        model = nn.ModuleDict({name: model})
    path = tmp_path / "own.pth"
    torch.save(dict(state_dict=model.state_dict()), path)
    load_model("sdtv3_nano_srb", str(path))
    assert not capsys.readouterr().err
    load_model("sdtv3_nano_srb_raster", str(path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{path}: weights that were saved with layout='channel' are loaded into a model with layout='raster' (SRB)"
    )


@pytest.mark.parametrize("settings", [dict(type="sterf_plugins.SDTV3"), dict(type="sterf_plugins.TIMMBackbone")])
@pytest.mark.parametrize("prefix", [None, "student.backbone"])
def test_init_cfg_tells_of_other_settings(tmp_path, settings, prefix):
    if settings["type"].endswith("SDTV3"):
        settings, other = settings | dict(arch=ARCH, mixer="srb"), dict(layout="raster")
    else:
        settings, other = settings | dict(model_name="sdtv3_nano"), dict(levels=8)
    backbone = MODELS.build(settings)
    whole = nn.ModuleDict(dict(student=nn.ModuleDict(dict(backbone=backbone)))) if prefix else backbone
    torch.save(dict(state_dict=whole.state_dict()), tmp_path / "own.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth"), **(dict(prefix=prefix) if prefix else {}))
    MODELS.build(settings | dict(init_cfg=init)).init_weights()
    with pytest.warns(UserWarning, match="weights that were saved with") as told:
        MODELS.build(settings | other | dict(init_cfg=init)).init_weights()
    assert len({str(warning.message) for warning in told}) == 1


@pytest.mark.slow
def test_images_of_another_normalisation_are_told(tmp_path, capsys):
    """Of timm's trainings, and of mmengine's, whose files have the config's text."""
    path = str(tmp_path / "last.pth.tar")
    state = timm.create_model("sdtv3_nano").state_dict()
    for mean, told in ((None, False), (list(IMAGENET_DEFAULT_MEAN), False), ([0.5, 0.5, 0.5], True)):
        torch.save(dict(state_dict=state, args=argparse.Namespace(mean=mean, std=None)), path)
        load_model("sdtv3_nano", path)
        assert ("trained with --mean [0.5, 0.5, 0.5], and images are" in capsys.readouterr().err) == told
    images = dict(type="SegDataPreProcessor", mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=True)
    trained = Config(dict(model=dict(type="EncoderDecoder", data_preprocessor=images)))
    checkpoint = dict(meta=dict(cfg=trained.pretty_text))
    other = Config(dict(model=dict(data_preprocessor=images | dict(mean=(1.0, 2, 4), bgr_to_rgb=False))))
    assert not other_images(trained, checkpoint) and not other_images(other, dict(meta=dict(cfg="model = f()")))
    assert [line.split(":")[0] for line in other_images(other, checkpoint)] == [
        "the weights were trained with data_preprocessor.mean=[1.0, 2, 3], and the config has (1.0, 2, 4)",
        "the weights were trained with data_preprocessor.bgr_to_rgb=True, and the config has False",
    ]


def test_checkpoint_path_tells_of_other_settings(tmp_path, recwarn):
    """Though timm, which loads the file, drops the metadata."""
    torch.save(dict(state_dict=timm.create_model("sdtv3_nano_srb").state_dict()), tmp_path / "own.pth")
    settings = dict(
        type="sterf_plugins.TIMMBackbone", model_name="sdtv3_nano_srb", checkpoint_path=str(tmp_path / "own.pth")
    )
    MODELS.build(settings)
    assert not recwarn
    with pytest.warns(UserWarning, match="saved with layout='channel' are loaded into a model with layout='raster'"):
        MODELS.build(settings | dict(layout="raster"))


def averaged(path, model) -> str:
    """A file as timm writes it, with averages beside the weights, which are larger by 1."""
    state = model.state_dict()
    ema = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    torch.save(dict(state_dict=state, state_dict_ema=ema, args=argparse.Namespace(lr=1.0)), path)
    return str(path)


@pytest.mark.slow
def test_averaged_weights_are_told(tmp_path, capsys):
    """The tools and ``init_cfg`` take the others, as timm's validate.py does; ``checkpoint_path`` takes averages, as timm does."""
    model = timm.create_model("sdtv3_nano")
    path = averaged(tmp_path / "last.pth.tar", model)
    assert torch.equal(load_model("sdtv3_nano", path).model.head.weight, model.head.weight)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{path}: the averaged weights 'state_dict_ema' in this file are not taken; to take them, write them"
    )
    torch.save(read_checkpoint(path)["state_dict_ema"], tmp_path / "averages.pth")  # as the line says
    assert torch.equal(
        load_model("sdtv3_nano", str(tmp_path / "averages.pth")).model.head.weight, model.head.weight + 1
    )
    assert not capsys.readouterr().err

    settings = dict(type="sterf_plugins.TIMMBackbone", model_name="sdtv3_nano")
    weight = "timm_model.model.stages.0.downsample.conv.weight"
    loaded = MODELS.build(settings | dict(checkpoint_path=path)).state_dict()[weight]
    assert torch.equal(loaded, model.stages[0].downsample.conv.weight + 1)
    own = averaged(tmp_path / "own.pth", backbone := MODELS.build(settings))
    other = MODELS.build(settings | dict(init_cfg=dict(type="Pretrained", checkpoint=own)))
    other.init_weights()
    assert torch.equal(other.state_dict()[weight], backbone.state_dict()[weight])


def test_the_averages_of_mmengine_are_the_weights_themselves(tmp_path, capsys):
    """``EMAHook`` puts the averages into ``state_dict``, and the others under the name of the averages."""
    model = timm.create_model("sdtv3_nano")
    others = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=model.state_dict(), ema_state_dict=others, meta=dict(epoch=1)), tmp_path / "epoch_1.pth")
    load_model("sdtv3_nano", str(tmp_path / "epoch_1.pth"))
    assert not capsys.readouterr().err


def test_weights_of_few_bits_fit(tmp_path):
    state = timm.create_model("sdtv3_nano").state_dict()
    half, few = state["stages.0.downsample.conv.weight"].half(), state["head.weight"].to(torch.float8_e4m3fn)
    torch.save(state | {"stages.0.downsample.conv.weight": half, "head.weight": few}, tmp_path / "own.pth")
    model = load_model("sdtv3_nano", str(tmp_path / "own.pth")).model
    assert torch.equal(model.head.weight, few.float()) and torch.equal(
        model.stages[0].downsample.conv.weight, half.float()
    )


@pytest.mark.parametrize(
    "change", [torch.Tensor.numpy, lambda weight: (100 * weight).to(torch.int8), lambda weight: weight.to("meta")]
)
def test_weights_that_are_no_floating_point_tensors_do_not_fit(tmp_path, change):
    state = timm.create_model("sdtv3_nano").state_dict()
    torch.save(state | {"head.weight": change(state["head.weight"])}, tmp_path / "own.pth")
    with pytest.raises(
        ValueError, match=r"1 of \d+ entries are missing or of another shape or type, such as head.weight"
    ):
        load_model("sdtv3_nano", str(tmp_path / "own.pth"))


def test_init_cfg_of_timm_backbones_refuses_entries_without_a_place(tmp_path):
    """A norm that the checkpoint has and the backbone lacks would be left out; stages that it lacks may be."""
    settings = dict(type="sterf_plugins.TIMMBackbone", model_name="sdtv3_nano_srb")
    torch.save(dict(state_dict=MODELS.build(settings).state_dict()), tmp_path / "own.pth")
    init = dict(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth")))
    with pytest.raises(ValueError, match=r"has 20 entries more in the same stages, such as '.*mixer.bn1"):
        MODELS.build(settings | init | dict(norm_hidden=False)).init_weights()
    MODELS.build(settings | init | dict(out_indices=(0, 1))).init_weights()


@pytest.mark.parametrize("prefix", [None, "backbone."])
@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod."])
@pytest.mark.slow
def test_mmengine_reads_wrapped_models_through_every_option(tmp_path, wrapped, prefix):
    stock = dict(type="sterf_plugins.TIMMBackbone", model_name="resnet18")
    model = MODELS.build(stock)
    state = {f"{wrapped}{prefix or ''}{k}": v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / "own.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth")) | (dict(prefix=prefix) if prefix else {})
    loaded = MODELS.build(dict(stock, init_cfg=init))
    loaded.init_weights()
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_lone_part_of_an_attention_is_not_dropped(golden):
    state = golden.case("bb_cls_base_t8")[2]
    for letter in "qkv":
        lacking = {k: v for k, v in state.items() if not re.search(rf"block3\.0\.attn\.{letter}_conv\.0", k)}
        others = " and ".join(other for other in "qkv" if other != letter)
        with pytest.raises(ValueError, match=rf"attn\.\{{q,k,v\}}\.conv\.weight: the checkpoint has {others} alone"):
            convert_state_dict(lacking)
    alone = {k: v for k, v in state.items() if not re.search(r"block3\.0\.attn\.[qk]_conv", k)}
    with pytest.raises(ValueError, match="the checkpoint has v alone"):
        convert_state_dict(alone)


class Forgetful(Gate):
    """Keeps a tensor that its output depends on out of its state dict."""

    def __init__(self, dim: int, ratio: int):
        super().__init__(dim, ratio)
        self.register_buffer("bias", torch.randn(1), persistent=False)

    def forward(self, x):
        return super().forward(x) + self.bias


class ForgetfulStem(Shift):
    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2):
        super().__init__(in_chans, embed_dim, stride)
        self.scale = torch.rand(1) + 1

    def forward(self, x):
        return super().forward(self.scale * x.abs().sqrt()) * self.scale


@pytest.mark.slow
def test_the_checks_of_plugins_save_and_load():
    check_mixer(Gate)
    with pytest.raises(AssertionError, match="a backbone with this mixer that loads a checkpoint gives other features"):
        check_mixer(Forgetful)
    with pytest.raises(AssertionError, match="a backbone with this stem that loads a checkpoint gives other features"):
        check_stem(ForgetfulStem)


class Slow(Shift):
    """A stem that halves the image once more than it says."""

    def forward(self, x):
        return super().forward(x)[..., ::2, ::2]


class Colours(Shift):
    """A stem that looks at three channels, whatever it is built for."""

    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2):
        super().__init__(3, embed_dim, stride)

    def forward(self, x):
        return super().forward(x[:, :3])


def test_a_stem_of_another_stride_is_refused():
    with pytest.raises(
        ValueError, match=r"`stem` \(Slow\).*stride=2, makes \(1, 4, 17, 13\) .* takes \(1, 4, 33, 25\)"
    ):
        SDTV3(ARCH, stem=Slow)
    with pytest.raises(ValueError, match=r"`stem` \(Shift\).*makes \(1, 4, 17, 13\)"):
        SDTV3(ARCH, stem=lambda in_chans, dim, stride: Shift(in_chans, dim, 4))
    with torch.device("meta"):
        SDTV3(ARCH, stem=Slow)


def test_a_stem_that_ignores_what_it_is_built_for():
    check_stem(Shift)
    with pytest.raises(AssertionError, match=r"stem\(4, 17, 2\) does not look at channels \[3\]"):
        check_stem(Colours)
    with pytest.raises(AssertionError, match=r"stem\(4, 17, 2\) does not run on images \(2, 4, 32, 32\): .* channels"):
        check_stem(lambda in_chans, dim, stride: Shift(3, dim, stride))
    with pytest.raises(AssertionError, match=r"gave \(2, 16, 16, 16\), expected \(2, 17, 16, 16\)"):
        check_stem(lambda in_chans, dim, stride: Shift(in_chans, 16, stride))


def test_conversion_leaves_our_own_names_alone():
    model = MetaSDT((8, 16, 32, 48), 4, num_classes=5)
    own = {f"module.{k}": v for k, v in model.state_dict().items()}
    assert convert_state_dict(own).keys() == model.state_dict().keys()


@pytest.mark.parametrize("read", [state_dict_of, convert_state_dict])
def test_what_is_no_checkpoint_is_named(read):
    with pytest.raises(TypeError, match="`checkpoint` is a list; give a state dict, or what read_checkpoint"):
        read([torch.zeros(1)])
