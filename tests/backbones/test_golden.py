"""Blocks and backbones against arrays computed by the reference modules."""

import pytest
import torch

from sterf_plugins.backbones import SDTV3, convert_state_dict
from sterf_plugins.checkpoints.sdt_v3 import rename_entries
from sterf_plugins.functional import integer_fire
from sterf_plugins.layers import Downsample, MixerBlock, SepConv, SpikeAttention, SpikeMlp, TransformerBlock
from sterf_plugins.mixers import SRB, ConvMixer, MLPixer
from sterf_plugins.stems import ConvStem

SIZES = ("c8", "c12e6")
RELEASED = dict(layout="raster", norm_hidden=False)


def relative_error(ours: torch.Tensor, golden: torch.Tensor) -> float:
    return ((ours - golden).norm() / golden.norm()).item()


def check_gradients(outputs, x, arrays, tolerance=1e-5):
    """Outputs, and the input gradients for upstream ones and for a random cotangent."""
    for i, y in enumerate(outputs):
        assert relative_error(y, arrays[f"y.{i}"].view_as(y)) <= tolerance
    for name, cotangents in {
        "gx_ones": [torch.ones_like(y) for y in outputs],
        "gx_rand": [arrays[f"gy_rand.{i}"].view_as(y) for i, y in enumerate(outputs)],
    }.items():
        (grad,) = torch.autograd.grad(outputs, x, cotangents, retain_graph=True)
        assert relative_error(grad, arrays[name]) <= tolerance, name


def check_block(golden, name, build, published_prefix, our_prefix):
    case, arrays, state = golden.case(name)
    block = build(case["ctor"]).eval()
    renamed = rename_entries({published_prefix + k: v for k, v in state.items()})
    block.load_state_dict({k.removeprefix(our_prefix): v for k, v in renamed.items()}, strict=True)
    x = arrays["x"].requires_grad_()
    check_gradients([block(x)], x, arrays)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [3, 7])
def test_sepconv(golden, size, kernel):
    """The bare separable convolution has block-local keys; it stands in a mixer block in the checkpoint."""
    check_block(
        golden,
        f"sepconv_k{kernel}_{size}",
        lambda ctor: SepConv(ctor["dim"], kernel),
        "ConvBlock1_1.0.Conv.",
        "stages.0.blocks.0.sep_conv.",
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("case", "mixer"),
    [
        ("convblock", ConvMixer),
        ("mlpixer_div", MLPixer),
        ("mlpixer_nodiv", MLPixer),
        ("srb_div", SRB),
        ("srb_nodiv", SRB),
    ],
)
def test_mixer_block(golden, case, mixer, size):
    def build(ctor):
        return MixerBlock(ctor["dim"], mixer(ctor["dim"], ctor["mlp_ratio"], drop=ctor.get("drop", 0.0), **RELEASED))

    check_block(golden, f"{case}_{size}", build, "ConvBlock1_1.0.", "stages.0.blocks.0.")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("case", "factor"), [("attn", 2.0), ("attn_erfscale", 1.0)])
def test_attention(golden, case, factor, size):
    check_block(
        golden,
        f"{case}_{size}",
        lambda ctor: SpikeAttention(ctor["dim"], ctor["num_heads"], factor=factor),
        "block3.0.attn.",
        "stages.3.blocks.0.attn.",
    )


@pytest.mark.parametrize("size", SIZES)
def test_mlp(golden, size):
    def build(ctor):
        return SpikeMlp(ctor["in_features"], ctor["hidden_features"] // ctor["in_features"])

    check_block(golden, f"mlp_{size}", build, "block3.0.mlp.", "stages.3.blocks.0.mlp.")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["block", "block_layerscale"])
def test_transformer_block(golden, case, size):
    def build(ctor):
        return TransformerBlock(ctor["dim"], ctor["num_heads"], ctor["mlp_ratio"], layer_scale=ctor.get("init_values"))

    check_block(golden, f"{case}_{size}", build, "block3.0.", "stages.3.blocks.0.")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["down_first", "down_s1", "down_s2"])
def test_downsampling(golden, case, size):
    def build(ctor):
        kind = ConvStem if ctor["first_layer"] else Downsample
        return kind(ctor["in_channels"], ctor["embed_dims"], ctor["stride"])

    check_block(golden, f"{case}_{size}", build, "downsample2.", "stages.2.downsample.")


BACKBONES = [
    ("bb_det_mlpixer", "mlpixer", (1, 2, 3, 4)),
    ("bb_det_srb", "srb", (1, 2, 3, 4)),
    ("bb_seg_mlpixer", "mlpixer", (0, 1, 2, 4)),
    ("bb_seg_srb", "srb", (0, 1, 2, 4)),
    ("bb_seg_base_layerscale", "conv", (0, 1, 2, 4)),
    ("bb_cls_base", "conv", None),
    ("bb_det_sdeformer", "conv", (1, 2, 3, 4)),
]


@pytest.mark.parametrize("size", ["t8", "t8e6"])
@pytest.mark.parametrize(("case", "mixer", "points"), BACKBONES)
def test_backbone(golden, case, mixer, points, size):
    name = f"{case}_{size}"
    if case == "bb_det_sdeformer":
        name = f"{case}_t8"  # the one case there is
    description, arrays, state = golden.case(name)
    ctor = description["ctor"]
    model = SDTV3(
        dict(embed_dims=ctor["embed_dim"], num_heads=ctor["num_heads"]),
        mixer,
        ratio=ctor["mlp_ratios"],
        **RELEASED,
        layer_scale=1e-6 if "layerscale" in case else None,
        drop_rate=0.2,
        out_indices=points or (4,),
        num_classes=ctor.get("num_classes", 0) if points is None else 0,
    ).eval()
    model.load_state_dict(convert_state_dict(state), strict=True)
    x = arrays["x"].requires_grad_()
    outputs = model(x)
    outputs = [outputs] if points is None else list(outputs)
    if "gx_ones" in arrays:
        check_gradients(outputs, x, arrays)
        return
    # The release has no gradient in eval mode here; ours has the surrogate's.
    for i, y in enumerate(outputs):
        assert relative_error(y, arrays[f"y.{i}"].view_as(y)) <= 1e-5
    (grad,) = torch.autograd.grad(sum(y.sum() for y in outputs), x)
    assert grad.norm() > 0


SPIKES = {
    "multispike_d4": dict(levels=4),
    "multispike_d4_norm1": dict(levels=4, norm=1),
    "multispike_d8": dict(levels=8),
    "multispike_min0_max2_norm3": dict(levels=2, norm=3),
    "seg_norm4": dict(levels=4),
    "seg_qtrick": dict(levels=4, norm=1),
    "bic_qtrick": dict(levels=4),
    "sde_T4_train": dict(levels=8, norm=4),
    "sde_T4_eval": dict(levels=4),
    "bic_sde_T4_train": dict(levels=4),
    "bic_sde_T4_eval": dict(levels=4),
}


@pytest.mark.parametrize("variant", SPIKES)
def test_spike_function(golden, variant):
    arrays = golden.tensors("spike_a.safetensors")
    if f"{variant}.y" not in arrays:
        pytest.skip(f"no array for {variant}")
    x = arrays["x"].clone().requires_grad_()
    y = integer_fire(x, **SPIKES[variant])
    assert torch.equal(y, arrays[f"{variant}.y"])
    (grad,) = torch.autograd.grad(y, x, arrays["gy"])
    expected = arrays[f"{variant}.gx"] if not variant.endswith("_eval") else arrays["bic_sde_T4_train.gx"]
    assert torch.allclose(grad, expected, atol=1e-7, rtol=0)  # eval of the release has no surrogate; ours has
