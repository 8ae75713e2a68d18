"""Models that the tools load."""

import numpy as np
import pytest
import torch
from PIL import Image

from sterf_plugins.cli.images import displayed, from_files
from sterf_plugins.cli.loading import Loaded, build_config, default_size, load_model
from sterf_plugins.cli.specs import slug_of


def test_inputs_of_a_tracker_have_the_size_of_its_search_region():
    """The counts of operations of the published trackers are those of 256 pixels."""
    pytest.importorskip("mmengine", reason="the extra [openmmlab] is missing")
    from mmengine.config import Config

    for dataset, side in ((dict(search_size=128), 128), ({}, 256)):
        config = Config(dict(model=dict(type="sterf_plugins.SDTrack"), test_dataloader=dict(dataset=dataset)))
        loaded = Loaded("tracker", torch.nn.Identity(), (512, 512), (), (), config=config, size_is_known=False)
        assert default_size(loaded) == (side, side)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"]
)
def test_without_a_checkpoint_a_config_gives_the_weights_that_a_training_starts_with(name, capsys):
    loaded = load_model(name)  # imports draw random numbers
    assert default_size(loaded) == ((512, 512) if "mmdet" in name else (512, 1024))
    assert (f"{name}: inputs of 512x512, since neither" in capsys.readouterr().err) == ("mmdet" in name)
    torch.manual_seed(0)
    model = load_model(name).model

    from mmengine.registry import MODELS, init_default_scope

    from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn

    config = load_config(name)
    revert_sync_bn(config)
    init_default_scope(config.default_scope)
    config.model.backbone.init_cfg, config.model.pretrained = None, None
    torch.manual_seed(0)
    started = MODELS.build({k: v for k, v in config.model.items() if k != "pretrained" or v})
    built = {k: v.clone() for k, v in started.state_dict().items()}
    started.init_weights()
    expected = started.state_dict()
    assert [k for k, v in model.state_dict().items() if not torch.equal(v, expected[k])] == []
    assert any(not torch.equal(v, built[k]) for k, v in expected.items())


@pytest.mark.slow
def test_images_are_as_the_configs_preprocessor_gives_them(tmp_path):
    """YOLOX takes the numbers of pixels as they are, and its first layer has four times as many channels as the image."""
    loaded = load_model("mmdet::yolox/yolox_nano_8xb8-300e_coco.py")
    from sterf_plugins.openmmlab.hooks.erf import _image_channels

    Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / "photo.png")
    (image,) = from_files([tmp_path / "photo.png"], loaded, (32, 32))
    pixels = torch.tensor([50, 100, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    assert torch.equal(image, loaded.model.data_preprocessor(dict(inputs=[pixels], data_samples=None))["inputs"])
    assert np.allclose(255 * displayed(image, loaded), (200, 100, 50)) and _image_channels(loaded.model) == 3


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("LIF tau 4", "LIF-tau-4"),
        ("a/b (c=1)", "a-b-c-1"),
        ("τ = 2", "τ-2"),
        ("模型", "模型"),
        ("../x", "x"),
        ("%", "model"),
    ],
)
def test_files_of_a_label_have_its_letters_in_any_script(label, name):
    """Of Greek or Chinese letters nothing was left, and all such labels had one hidden file."""
    assert slug_of(label) == name


@pytest.mark.slow
def test_one_mean_stands_for_all_channels():
    """As ``openmmlab.configs.model_checks`` advises for other than three."""
    images = dict(type="ImgDataPreprocessor", mean=[10.0], std=[2.0])
    model = dict(type="mmseg.EncoderDecoder", data_preprocessor=images, test_cfg=dict(mode="whole"))
    model["backbone"] = dict(type="sterf_plugins.SDTV3", arch="nano", in_channels=2)
    model["decode_head"] = dict(type="mmseg.FCNHead", in_channels=128, in_index=3, channels=8, num_classes=3)
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.config import Config

    loaded = build_config(Config(dict(default_scope="mmseg", model=model)), "mine")
    assert (loaded.mean, loaded.std) == ((10.0, 10.0), (2.0, 2.0))


def vit(**options):
    """A factory, as users have their own."""
    import timm

    return timm.create_model("vit_tiny_patch16_224", **options)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", (224, 224)),
        ("vit_tiny_patch16_224(img_size=(96, 128))", (96, 128)),
        ("swin_tiny_patch4_window7_224(img_size=112)", (112, 112)),
        ("resnet18", (224, 224)),
        (f"{__name__}:vit(img_size=64)", (64, 64)),
        (f"{__name__}:vit(img_size=(32, 48))", (32, 48)),
    ],
)
def test_the_size_is_that_which_the_model_was_built_for(name, size):
    loaded = load_model(name)
    assert loaded.size == size
    loaded.model(torch.zeros(1, 3, *size))


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    loaded = Loaded("none", torch.nn.Identity(), (4, 4), (0.0,), (1.0,))
    for name, kind in (("bytes", np.uint8), ("words", np.uint16)):
        Image.fromarray(np.full((4, 4), 200, kind)).save(tmp_path / f"{name}.png")
    (pixels,) = from_files([tmp_path / "bytes.png"], loaded, (4, 4))
    assert torch.equal(pixels, torch.full((1, 1, 4, 4), 200.0))
    with pytest.raises(ValueError, match=r"words\.png has more than 8 bits per channel"):
        next(from_files([tmp_path / "words.png"], loaded, (4, 4)))


@pytest.mark.parametrize(
    ("spec", "guess"),
    [
        ("resnet18", False),
        (f"{__name__}:vit", False),
        ("torch.nn:Conv2d(in_channels=3, out_channels=1, kernel_size=1)", True),
    ],
)
def test_a_size_that_is_a_guess_is_said(spec, guess, capsys):
    assert default_size(load_model(spec)) == (224, 224)
    assert ("inputs of 224x224, since neither the model nor a config says" in capsys.readouterr().err) == guess
