"""Models of Hugging Face as they are: default layers, prefix tokens, windows, videos, keyword arguments."""

import numpy as np
import pytest
import torch

from sterf_plugins.erf import compute_erf

tf = pytest.importorskip("transformers", reason="transformers is part of the extra `dev`")

SMALL = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=48, patch_size=8
)  # fmt: skip
STAGES = dict(depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1])
DETR = {
    f"{part}_{name}": n
    for part in ("encoder", "decoder")
    for name, n in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 16))
}
SWIN = dict(image_size=64, embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=4)


def build(cls, config, seed=0, **options):
    torch.manual_seed(seed)
    model = cls(config(**options)).double().eval()
    for module in model.modules():  # the initial weights of attention are so small that nothing is mixed
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.3)
    return model


def brute_force(model, x, layer, tokens):
    """The field of a layer's channel sum, ``tokens`` choosing the target in its output."""
    leaf, kept = x.clone().requires_grad_(), []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, y: kept.append(y))
    model(leaf)
    handle.remove()
    y = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
    (gradient,) = torch.autograd.grad(tokens(y).sum(), leaf)
    return gradient.abs()


@pytest.mark.parametrize(
    ("cls", "config", "options", "prefix"),
    [
        ("ViTModel", "ViTConfig", {}, 1),
        ("ViTForImageClassification", "ViTConfig", {}, 1),
        ("DeiTModel", "DeiTConfig", {}, 2),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", dict(num_register_tokens=4), 5),
        ("DINOv3ViTModel", "DINOv3ViTConfig", dict(num_register_tokens=7), 8),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", dict(num_register_tokens=20), 21),
        ("CLIPVisionModel", "CLIPVisionConfig", {}, 1),
        ("SiglipVisionModel", "SiglipVisionConfig", {}, 0),
    ],
)
def test_vision_transformers(cls, config, options, prefix):
    model, x = build(getattr(tf, cls), getattr(tf, config), **SMALL, **options), torch.randn(2, 3, 48, 48).double()
    result = compute_erf(model, x)
    assert len(result.layers) == 2 and not result.failed
    layer = result.layers[-1]
    assert result.info["map_size"][layer] == [6, 6]
    expected = brute_force(model, x, layer, lambda y: y[:, prefix + 3 * 6 + 3]).mean((0, 1)).numpy()
    assert np.allclose(result.spatial[layer], expected, rtol=1e-5, atol=1e-7 * expected.max())


@pytest.mark.parametrize(("kind", "seed"), [("DeiT", 5000), ("Dinov2", 19000)])
def test_networks_that_mix_all_places_are_not_refused_by_chance(kind, seed):
    """With these seeds what four changed parts of the input change seems to be elsewhere, and with four others does not."""
    model = build(getattr(tf, f"{kind}Model"), getattr(tf, f"{kind}Config"), seed, **SMALL)
    result = compute_erf(model, torch.randn(2, 3, 48, 48).double())
    assert len(result.layers) == 2 and not result.failed


@pytest.mark.parametrize(
    ("cls", "config", "options", "sizes"),
    [
        (
            "SegformerModel", "SegformerConfig",
            dict(hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, **STAGES), [16, 8, 4, 2],
        ),
        ("PvtV2Model", "PvtV2Config", dict(hidden_sizes=[8, 16, 24, 32], **STAGES), [16, 8, 4, 2]),
        ("ConvNextModel", "ConvNextConfig", dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]), [16, 8, 4, 2]),
        (
            "ResNetModel", "ResNetConfig",
            dict(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]), [16, 8, 4, 2],
        ),
        ("SwinModel", "SwinConfig", SWIN, [8, 8, 8, 8]),
        ("Swinv2Model", "Swinv2Config", SWIN, [8, 16, 8, 8]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_stages_are_the_default(cls, config, options, sizes):
    """Stages of Swin give two maps, those of SwinV2 one behind and one before the downsampling."""
    model = build(getattr(tf, cls), getattr(tf, config), **options)
    result = compute_erf(model, torch.randn(2, 3, 64, 64).double())
    assert not result.failed and not result.warnings
    assert [result.info["map_size"][layer] for layer in result.layers] == [[n, n] for n in sizes]
    assert all(np.isfinite(result.spatial[layer]).all() and result.spatial[layer].any() for layer in result.layers)
    assert all(result.numbers(layer)["centre_mass"].value > 0.01 for layer in result.layers)


@pytest.mark.parametrize(("cls", "config"), [("SwinModel", "SwinConfig"), ("Swinv2Model", "Swinv2Config")])
def test_windows_of_swin(cls, config):
    """16x16 at stride 4 in windows of 4: pixel 8 is the first of the window 8..11; shifted by 2, it is in 6..9."""
    model = build(getattr(tf, cls), getattr(tf, config), **SWIN)
    layers = [f"encoder.layers.0.blocks.{i}.attention" for i in range(2)]
    result = compute_erf(model, torch.randn(2, 3, 64, 64).double(), layers, channels=4)
    spans = []
    for layer in result.layers:
        field = result.spatial[layer] > 1e-9 * result.spatial[layer].max()
        spans.append(
            [(int(np.flatnonzero(v).min()), int(np.flatnonzero(v).max()) + 1) for v in (field.any(1), field.any(0))]
        )
    assert spans[0] == [(32, 48), (32, 48)]
    assert spans[1] == [(16, 48), (16, 48)]  # the windows of block 0 that 6..9 overlaps are 4..7 and 8..11


def test_hiera_is_refused_where_its_tokens_are_in_another_order():
    options = dict(embed_dim=8, image_size=[64, 64], num_heads=[1, 1, 1, 1], masked_unit_size=[8, 8])
    model = build(tf.HieraModel, tf.HieraConfig, depths=[1, 1, 1, 1], **options)
    result = compute_erf(model, torch.randn(2, 3, 64, 64).double())
    assert result.layers[-1] == "encoder.stages.3[0]"
    wrong = ["encoder.stages.0[0]", "encoder.stages.1[0]"]
    assert all("not in the order of rows and columns" in result.failed[layer] for layer in wrong)


def test_videomae():
    model = build(tf.VideoMAEModel, tf.VideoMAEConfig, num_frames=4, tubelet_size=2, **SMALL)
    x = torch.randn(2, 4, 3, 48, 48).double()
    result = compute_erf(model, dict(pixel_values=x), axes="NTCHW")
    layer = result.layers[-1]
    assert result.info["map_size"][layer] == [2, 6, 6]
    expected = brute_force(model, x, layer, lambda y: y[:, 1 * 36 + 3 * 6 + 3]).mean((0, 2)).numpy()
    assert np.allclose(result.volume[layer], expected, rtol=1e-5, atol=1e-7 * expected.max())
    assert np.allclose(result.frames[layer], expected.sum((1, 2)), rtol=1e-5)


def test_keyword_arguments_that_get_no_map():
    """A mask goes along; the backbone and the encoder of DETR have fields, also in 16 bits."""
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    model = build(tf.DetrModel, tf.DetrConfig, backbone_config=backbone, d_model=16, num_queries=5, **DETR)
    x = dict(pixel_values=torch.randn(2, 3, 128, 128), pixel_mask=torch.ones(2, 128, 128, dtype=torch.long))
    x["pixel_mask"][:, :, 96:] = 0
    result = compute_erf(model.bfloat16(), x, ["backbone.model.encoder.stages.3", "encoder.layers.0"])
    assert not result.failed and result.info["map_size"]["encoder.layers.0"] == [4, 4]
    assert next(model.parameters()).dtype == torch.bfloat16


def test_queries_are_no_map_although_there_are_as_many_as_tokens():
    """Nine queries of DETR, and 3x3 tokens of an image of 96x96: those of the encoder are a map, those of the decoder none."""
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    torch.manual_seed(0)
    model = tf.DetrModel(tf.DetrConfig(backbone_config=backbone, d_model=16, num_queries=9, **DETR)).eval()
    layers = ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]
    result = compute_erf(model, torch.randn(2, 3, 96, 96), layers, kinds="spatial")
    assert result.layers == layers[:1] and all("queries" in result.failed[layer] for layer in layers[1:])


def test_groups_are_no_map():
    """GroupViT assigns tokens to six groups, which are no 2x2 behind two class tokens."""
    sizes = dict(num_group_tokens=[6, 0], num_output_groups=[6, 0], depths=[1, 1], assign_mlp_ratio=[0.5, 4])
    options = SMALL | dict(num_hidden_layers=2, image_size=64)
    model = build(tf.GroupViTVisionModel, tf.GroupViTVisionConfig, **options, **sizes)
    with pytest.raises(ValueError, match="has 6 tokens, which fit no grid"):
        compute_erf(model, torch.randn(1, 3, 64, 64).double())


def test_default_layers_of_models_around_others_and_of_lists_of_other_names():
    wrapper = tf.TimmBackbone(
        tf.TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 3])
    )
    x = torch.randn(1, 3, 64, 64)
    assert compute_erf(wrapper, x, calibrate=False).layers == ["_backbone.layer1", "_backbone.layer3"]
    model = build(tf.SwiftFormerModel, tf.SwiftFormerConfig, depths=[1, 1, 1, 1], embed_dims=[8, 8, 16, 16])
    assert compute_erf(model, x.double()).layers == [f"encoder.network.{i}" for i in range(7)]


@pytest.mark.slow
def test_a_map_is_not_taken_for_queries_that_a_table_of_biases_has_the_numbers_of():
    """LeViT's attention biases (heads, offsets) are 16 x 16 at 4x4 tokens; at random weights its attention looks everywhere."""
    torch.manual_seed(0)
    sizes = dict(image_size=128, hidden_sizes=[32, 32, 32], num_attention_heads=[2, 16, 16], depths=[1, 1, 1])
    config = tf.LevitConfig(**sizes, key_dim=[4, 4, 4], down_ops=[["Subsample", 4, 8, 4, 2, 2]] * 2 + [[""]])
    result = compute_erf(tf.LevitModel(config).eval(), torch.randn(1, 3, 128, 128))
    assert not result.failed and result.info["map_size"]["encoder.stages.0"] == [4, 4]


def test_tokens_behind_those_of_the_patches_do_not_shift_the_map():
    """YOLOS has a class token before its patches, and those of detections behind them."""
    torch.manual_seed(0)
    model = tf.YolosModel(tf.YolosConfig(**SMALL | dict(image_size=[48, 48]), num_detection_tokens=5)).eval()
    x = torch.randn(1, 3, 48, 48)
    with pytest.raises(ValueError, match=r"'encoder.layer.0': its map of 6x6 changes elsewhere .*function"):
        compute_erf(model, x, "encoder.layer.0")
    patches = lambda y: (y if isinstance(y, torch.Tensor) else y[0])[:, 1:37].transpose(1, 2).unflatten(2, (6, 6))  # noqa: E731
    result = compute_erf(model, x, "encoder.layer.0", layout=patches)
    assert result.numbers("encoder.layer.0")["centre_mass"].value > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_masked_tokens_are_no_map(count):
    """ViTMAE keeps a quarter of the tokens, in another order for each pass: 9 of 36 could be 3x3."""
    model = build(tf.ViTMAEModel, tf.ViTMAEConfig, **SMALL)
    with pytest.raises(ValueError, match="its map of 3x3 changes elsewhere than the input does"):
        compute_erf(model, torch.randn(count, 3, 48, 48).double())
