"""Registered layers and backbones, built by scoped type strings in stock classes."""

import pytest
import torch
from spikingjelly.activation_based import surrogate

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import MODELS, DefaultScope  # noqa: E402


def build(config: dict, scope: str = "mmdet"):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
@pytest.mark.parametrize("name", ["SRBPlugin", "MLPixerPlugin"])
def test_plugin_layers_in_a_stock_resnet(scope, name):
    plugin = dict(
        cfg=dict(type=f"sterf_plugins.{name}", ratio=4), stages=(False, True, True, True), position="after_conv2"
    )
    net = build(dict(type="ResNet", depth=50, plugins=[plugin]), scope)
    net.eval()
    kinds = {type(m).__name__ for m in net.modules()}
    assert name in kinds
    features = net(torch.randn(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == [256, 512, 1024, 2048]
    assert hasattr(net.layer2[0], "srb_plugin" if name == "SRBPlugin" else "mlpixer_plugin")


@pytest.mark.slow
def test_two_plugins_in_one_block_take_postfixes():
    plugins = [
        dict(cfg=dict(type="sterf_plugins.MixerPlugin", mixer="conv", postfix=i), position=f"after_conv{i + 2}")
        for i in (0, 1)
    ]
    with torch.device("meta"):  # mixers of 2048 channels take seconds to initialise
        net = build(dict(type="ResNet", depth=50, plugins=plugins))
    assert hasattr(net.layer1[0], "mixer_plugin0") and hasattr(net.layer1[0], "mixer_plugin1")


@pytest.mark.parametrize("options", [{}, dict(levels=8), dict(neuron="lif", T=4), dict(neuron=dict(type="ilif", T=2))])
def test_spiking_act_spikifies_a_stock_fpn(options):
    fpn = build(
        dict(
            type="FPN",
            in_channels=[8, 16],
            out_channels=8,
            num_outs=3,
            act_cfg=dict(type="sterf_plugins.SpikingAct", **options),
        )
    )
    x = [torch.randn(2, 8, 16, 16, requires_grad=True), torch.randn(2, 16, 8, 8)]
    outputs = fpn(x)
    assert outputs[0].min() >= 0
    assert len(outputs[0].unique()) <= 9 or options.get("neuron")
    outputs[0].sum().backward()
    assert x[0].grad is not None


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_timm_backbone(scope):
    net = build(dict(type="sterf_plugins.TIMMBackbone", model_name="resnet18", out_indices=(1, 2, 3, 4)), scope)
    assert net.out_channels == (64, 128, 256, 512)
    assert net.out_strides == (4, 8, 16, 32)
    assert [f.shape[1] for f in net(torch.randn(1, 3, 64, 64))] == [64, 128, 256, 512]


def test_timm_backbone_init_weights_keeps_what_timm_made():
    net = build(dict(type="sterf_plugins.TIMMBackbone", model_name="sdtv3_nano_srb"))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            dict(type="sterf_plugins.TIMMBackbone", model_name="resnet1800"),
            "unknown timm model 'resnet1800'; near names: resnet",
        ),
        (
            dict(type="sterf_plugins.TIMMBackbone", model_name="resnet18", out_indices=(1, 7)),
            r"`out_indices` is \(1, 7\); resnet18 has 0 \(stride 2, 64 channels\)",
        ),
        *(
            (dict(type="sterf_plugins.TIMMBackbone", model_name="resnet18", out_indices=wrong), "ascending, each once")
            for wrong in ((1, 1), (2, 1), (-1, 4), (True,), (1.0,))
        ),
        (dict(type="sterf_plugins.SDTV3", levels=0), "`levels` is 0"),
        (dict(type="sterf_plugins.SDTV3", mixer="nothing"), "unknown mixer 'nothing'; known: conv, mlpixer, srb"),
        (dict(type="sterf_plugins.SDTV3", out_indices=(9,)), "give ascending feature levels"),
        (dict(type="sterf_plugins.SpikingAct", neuron="liff"), "unknown neuron 'liff'; known: if, ilif"),
        (dict(type="sterf_plugins.SpikingAct", neuron="lif"), "`neuron` is a LIFNode without `T`"),
        (
            dict(type="sterf_plugins.SpikingAct", surrogate_function=surrogate.ATan()),
            "`neuron` 'integer' has no option 'surrogate_function'; it has eval_levels, levels, norm",
        ),
        (
            dict(type="sterf_plugins.SpikingAct", neuron="lif", tauu=2),
            "LIFNode has no option 'tauu'; it has T, decay_inp",
        ),
        (
            dict(type="sterf_plugins.SpikingAct", neuron="lif", surrogate_function="ATan"),
            "`surrogate_function` is 'ATan'; it must be a function",
        ),
        (
            dict(type="sterf_plugins.SpikingAct", neuron="ilif", surrogate_function=surrogate.ATan()),
            "ILIFNode cannot be built: surrogate_function must be",
        ),
    ],
)
def test_bad_arguments(config, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(config)


# --- pretrained weights -------------------------------------------------------------------------------------------

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


def test_pretrained_published_checkpoint_loads_strictly(golden, tmp_path):
    _, arrays, state = golden.case("bb_det_srb_t8")
    path = tmp_path / "published.pth"
    torch.save({"model": state, "epoch": 199}, path)
    init = dict(type="Pretrained", checkpoint=str(path))
    released = dict(type="sterf_plugins.SDTV3", arch=NANO, mixer="srb", layout="raster", norm_hidden=False)
    net = build(dict(released, init_cfg=init))
    net.init_weights()
    net.eval()
    for i, y in enumerate(net(arrays["x"])):
        assert torch.allclose(y, arrays[f"y.{i}"][0], atol=1e-4)


def test_a_checkpoint_of_another_model_is_refused(golden, tmp_path):
    path = tmp_path / "published.pth"
    torch.save({"model": golden.case("bb_det_srb_t8")[2]}, path)
    init = dict(type="Pretrained", checkpoint=str(path))
    net = build(dict(type="sterf_plugins.SDTV3", arch=NANO, mixer="conv", init_cfg=init))
    with pytest.raises(
        ValueError, match=r"mixer='srb', ratio=4, norm_hidden=False, layer_scale=no, which is not this backbone"
    ):
        net.init_weights()
    torch.save({"state_dict": {"layer1.0.weight": torch.ones(1)}}, path)
    with pytest.raises(ValueError, match="unknown keys"):
        net.init_weights()


def test_frozen_stages_fixed_norms_and_checkpointing():
    torch.manual_seed(0)
    backbone = MODELS.build(
        dict(type="sterf_plugins.SDTV3", arch="nano", frozen_stages=1, norm_eval=True, with_cp=True)
    )
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()
    assert not backbone.stages[1].training
    assert backbone.stages[2].training
    assert backbone.grad_checkpointing
    sum(y.square().mean() for y in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(("stages.0.", "stages.1.")), name
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match=r"`frozen_stages` is 5; give the last stage that is not trained, 0 to 4"):
        MODELS.build(dict(type="sterf_plugins.SDTV3", arch="nano", frozen_stages=5))
