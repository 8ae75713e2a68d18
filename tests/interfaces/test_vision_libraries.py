"""Libraries that take their models from timm, with ours; each example is as docs/interfaces.md shows it.

The page's own code runs in tests/test_docs.py; here is what it promises beyond that it runs.
"""

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

import sterf_plugins.timm  # noqa: F401  (registers the names)
from sterf_plugins.erf import calibrate, compute_erf

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interfaces.md"


def shown(name: str, names: dict) -> dict:
    """Run the block of the page that defines ``name``, in addition to ``names``."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names = dict(torch=torch, timm=timm, nn=torch.nn) | names
    exec(next(block for block in blocks if name in block), names)
    return names


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(4, 3, 64, 64)


@pytest.mark.slow
def test_segmentation_models(images):
    """Whole networks train; the encoder's maps are those of timm; what the library cannot take it says itself."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("tu-covrf_resnet18", encoder_weights=None, classes=2)
    assert model(images).shape == (4, 2, 64, 64)
    with pytest.raises(ValueError, match="downsampling pattern"):
        smp.Unet("tu-sdtv3_nano_srb", encoder_weights=None)

    model = shown("class SDTV3Encoder", dict(smp=smp, images=images))["model"]
    assert model.encoder.out_channels == [3, 12, 24, 48, 128]
    model(images).square().mean().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    for name in ("Linknet", "MAnet", "UnetPlusPlus", "UPerNet", "FPN", "PSPNet", "Segformer"):
        options = dict(decoder_channels=(64, 32, 16, 8)) if name in ("MAnet", "UnetPlusPlus") else {}
        decoder = getattr(smp, name)("sdtv3_nano_srb", encoder_weights=None, encoder_depth=4, classes=2, **options)
        assert decoder(images).shape[:2] == (4, 2)
    for name in ("DeepLabV3Plus", "PAN"):
        with pytest.raises(NotImplementedError):
            getattr(smp, name)("sdtv3_nano_srb", encoder_weights=None, encoder_depth=4)


@pytest.mark.slow
def test_transformers(images, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmBackboneConfig(backbone="sdtv3_nano_srb", out_indices=(1, 2, 4), num_channels=3)
    backbone = transformers.AutoBackbone.from_config(config)
    assert backbone.channels == [24, 48, 128]
    sizes = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    detr = transformers.DetrForObjectDetection(
        transformers.DetrConfig(backbone_config=config, num_queries=3, num_labels=2, **sizes)
    )
    for name, statistics in detr.named_buffers():
        if "running" in name:
            statistics.uniform_(0.5, 1.5)
    detr.eval().save_pretrained(tmp_path / "detr")
    again = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "detr").eval()
    assert torch.equal(again(images).logits, detr(images).logits)

    monkeypatch.chdir(tmp_path)
    model = calibrate(timm.create_model("sdtv3_nano_srb"), images)
    save_for_hf(model, "my-model", safe_serialization=True)
    backbone = shown("TimmBackbone.from_pretrained", {})["backbone"]
    expected = timm.create_model(
        "local-dir:my-model", pretrained=True, features_only=True, out_indices=(1, 2, 4)
    ).eval()
    assert all(map(torch.equal, backbone(images).feature_maps, expected(images)))


@pytest.mark.slow
def test_torchvision_detectors(images):
    from torchvision.models.detection import FasterRCNN, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    names = shown("class Pyramid", {})
    detector, body, pyramid = (names[name] for name in ("detector", "body", "Pyramid"))
    assert all(p.grad is not None for p in body.parameters())
    assert len(detector.eval()([torch.rand(3, 96, 96)])) == 1

    sizes, targets = dict(num_classes=3, min_size=96, max_size=96), names["targets"]
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    RetinaNet(pyramid(body), anchor_generator=anchors, **sizes)([torch.rand(3, 96, 96)], targets)
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    two_stages = FasterRCNN(pyramid(body), rpn_anchor_generator=anchors, box_roi_pool=pool, **sizes)
    two_stages([torch.rand(3, 96, 96)], targets)
    assert pool.scales == [1 / 4, 1 / 8, 1 / 16]


@pytest.mark.slow
def test_lightning_and_a_plain_loop_learn_the_same(images, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    by_lightning = shown("class Classifier", dict(images=images))
    torch.manual_seed(1)
    classifier = by_lightning["Classifier"]()
    trainer = by_lightning["lightning"].Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(classifier, by_lightning["data"])
    torch.manual_seed(1)
    by_loop = shown("optimizer.step()", by_lightning)["model"]
    for a, b in zip(classifier.model.parameters(), by_loop.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_attributions_beside_the_field_of_a_detection():
    captum = pytest.importorskip("captum.attr")
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    names = shown("class Score", shown("class Pyramid", {}))
    photo, score, field = (names[n] for n in ("photo", "score", "field"))
    attribution, activation = names["attribution"], names["activation"]
    assert attribution.shape == photo.shape and activation.shape == (1, 96, 96) and activation.max() > 0.9

    (gradient,) = torch.autograd.grad(score(x := photo.clone().requires_grad_()).sum(), x)
    assert torch.equal(captum.Saliency(score).attribute(x, abs=False), gradient)
    layer = "detector.backbone.fpn.layer_blocks.1"
    row, column = field.target(layer)[1]
    assert abs((row + 0.5) / 12 - names["y"]) <= 1 / 12 and abs((column + 0.5) / 12 - names["x"]) <= 1 / 12
    assert field.spatial[layer].shape == (96, 96) and field.spatial[layer].max() > 0
    alone = compute_erf(score, photo, layers=layer, position=(row, column))
    assert (alone.spatial[layer] == field.spatial[layer]).all()
