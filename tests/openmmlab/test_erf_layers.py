"""Receptive fields of layers of stock mmdet and mmseg models, against autograd."""

import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import sterf_plugins
from sterf_plugins.cli.loading import build_config
from sterf_plugins.erf import compute_erf

sterf_plugins.setup()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mmcv's own arguments

from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.runtime.tensor_forward import forward_for  # noqa: E402


def from_config(name, **options):
    torch.manual_seed(0)
    config = load_config(name, {f"model.{key}": value for key, value in options.items()})
    return build_config(config, name).model.eval()


def field(run, x, module, target):
    """The field of the channel sum of what ``target`` takes of a module's output, when ``run`` is given the images."""
    leaf, kept = x.clone().requires_grad_(), []
    handle = module.register_forward_hook(lambda m, a, y: kept.append(y))
    run(leaf)
    handle.remove()
    (gradient,) = torch.autograd.grad(target(kept[0]).sum(), leaf)
    return gradient.abs().mean((0, 1)).numpy()


@pytest.mark.slow
def test_the_encoder_of_detr():
    options = {"encoder.num_layers": 1, "decoder.num_layers": 1}
    model = from_config("mmdet::detr/detr_r18_8xb2-500e_coco.py", **options)
    x, layers = torch.randn(2, 3, 64, 96), ["backbone", "encoder.layers.0", "decoder.layers.0"]
    assert forward_for(model, ["backbone", "neck.*"]) is None and forward_for(torch.nn.ReLU(), layers) is None
    run = forward_for(model, layers)
    with pytest.raises(ValueError, match="What it needs besides the inputs, `forward=` can give it"):
        compute_erf(model, x, layers)
    # The encoder ends with a LayerNorm, whose channels have a constant sum.
    result = compute_erf(model, x[:1], layers[1:], forward=run, channels="per-channel", kinds="spatial")
    assert result.layers == ["encoder.layers.0"] and result.info["map_size"] == {"encoder.layers.0": [2, 3]}
    assert "100 tokens, which fit no grid of a 64x96 input" in result.failed["decoder.layers.0"]  # queries
    options = dict(forward=run, channels=1, calibrate=False)
    assert compute_erf(model, x, "backbone", **options).layers == ["backbone[0]"]
    signs = compute_erf(model, x, "encoder.layers.0", **options).spatial["encoder.layers.0"]
    sign = (torch.randint(0, 2, (1, 256), generator=torch.Generator().manual_seed(0)) * 2 - 1).float()
    expected = field(lambda leaf: run(model, leaf), x, model.encoder.layers[0], lambda y: y[:, 1 * 3 + 1] * sign)
    assert np.allclose(signs, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.slow
def test_the_pixel_decoder_of_mask2former_says_what_to_give():
    """Its tokens are those of three maps; queries are none of a map."""
    options = {"panoptic_head.pixel_decoder.encoder.num_layers": 1, "panoptic_head.transformer_decoder.num_layers": 1}
    options["backbone.depth"], options["panoptic_head.in_channels"] = 18, [64, 128, 256, 512]
    model = from_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", **options)
    head = "panoptic_head.pixel_decoder"
    layers = ["backbone", f"{head}.encoder.layers.0", "panoptic_head.transformer_decoder.layers.0", head]
    x = torch.randn(2, 3, 128, 128)
    result = compute_erf(model, x, layers, forward=forward_for(model, layers))
    assert [result.info["map_size"][n] for n in result.layers if n.startswith(head)] == [[n, n] for n in (32, 4, 8, 16)]
    tokens = result.failed[f"{head}.encoder.layers.0"]
    assert (
        "336 tokens, which fit no grid" in tokens and "a function as `layout` if they belong to several maps" in tokens
    )
    assert "100 tokens" in result.failed["panoptic_head.transformer_decoder.layers.0"]
    finest = lambda y: y[:, 80:].transpose(1, 2).unflatten(2, (16, 16))  # noqa: E731
    chosen = compute_erf(model, x, layers[1], forward=forward_for(model, layers), layout=finest)
    assert chosen.info["map_size"][layers[1]] == [16, 16]


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        (
            "MixVisionTransformer",
            dict(embed_dims=16, num_layers=[1] * 4, num_heads=[1] * 4),
            {"layers.0.1.0": [16, 16], "layers.1.2": [8, 8], "layers.3.1.0": [2, 2]},
        ),
        (
            "SwinTransformer",
            dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 1, 1, 1), window_size=4),
            {
                "stages.0.blocks.0.attn.w_msa": [16, 16],
                "stages.0.blocks.1": [16, 16],
                "stages.1.blocks.0": [8, 8],
                "norm2": [4, 4],
            },
        ),
    ],
)
def test_backbones_of_mmseg(name, options, layers):
    from mmseg.models import backbones

    torch.manual_seed(0)
    model, x = getattr(backbones, name)(**options), torch.randn(2, 3, 64, 64)
    model.eval()
    result = compute_erf(model, x, list(layers))
    assert not result.failed and {layer: result.info["map_size"][layer] for layer in layers} == layers
    for layer, (h, w) in layers.items():
        if layer not in result.info["constant_sums"] and "w_msa" not in layer:
            target = lambda y: y[:, h // 2 * w + w // 2]  # noqa: E731, B023
            expected = field(model, x, model.get_submodule(layer), target)
            assert np.allclose(result.spatial[layer], expected, rtol=1e-3, atol=1e-5 * expected.max())
    stages = "layers" if name == "MixVisionTransformer" else "stages"
    with pytest.raises(
        ValueError, match=f"{stages} is a list of modules, which is never called itself; name its entries"
    ):
        compute_erf(model, x, stages)


@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("mmdet.ResNet", dict(depth=18, out_indices=(1, 3)), "layer4"),
        ("mmdet.CSPDarknet", dict(widen_factor=0.125, deepen_factor=0.33, out_indices=(2, 4)), "stage4"),
        ("mmseg.MixVisionTransformer", dict(embed_dims=8, num_layers=[1, 1, 1, 1], out_indices=(1, 3)), "layers.3.2"),
        ("mmseg.SwinTransformer", dict(embed_dims=12, depths=[1, 1, 1, 1], out_indices=(1, 3)), "stages.3"),
    ],
)
def test_bare_backbones_have_their_stages_as_default_layers(name, options, last):
    import mmdet.models
    import mmseg.models

    package, kind = name.split(".")
    torch.manual_seed(0)
    model = getattr({"mmdet": mmdet.models, "mmseg": mmseg.models}[package].backbones, kind)(**options)
    model.eval()
    result = compute_erf(model, torch.randn(2, 3, 64, 96))
    maps = model(torch.randn(1, 3, 64, 96))
    assert result.layers[-1].startswith(last) and not result.failed
    sizes = {tuple(result.info["map_size"][layer]) for layer in result.layers}
    assert {tuple(m.shape[2:]) for m in maps} <= sizes


def test_detectors_get_no_objects_where_their_heads_ask_for_some():
    """As that of Sparse R-CNN does, whose forward pass assigns proposals to objects."""
    detector = sys.modules["mmdet.models"].BaseDetector
    model = Mock(spec=detector)
    samples = forward_for(model, ["roi_head"])(lambda images, samples, mode: samples, torch.zeros(2, 3, 8, 8))
    assert [tuple(s.gt_instances.bboxes.shape) for s in samples] == [(0, 4)] * 2 and samples[0].img_shape == (8, 8)
