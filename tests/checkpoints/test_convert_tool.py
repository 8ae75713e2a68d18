"""tools/model_converters/convert.py on files in the published containers, names and shapes."""

import argparse
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sterf_plugins
from sterf_plugins.backbones import SDTV1, SDTV3, MaxFormer, MetaSDT, QKFormer, Spikformer, convert_state_dict
from sterf_plugins.checkpoints.reading import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "model_converters" / "convert.py"
NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


@pytest.fixture(scope="module")
def convert(forked):
    def run_tool(*arguments, check=True, fresh=False):
        done = forked(TOOL, *arguments, fresh=fresh)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run_tool


def published(golden, name):
    return golden.case(name)[2]


@pytest.mark.slow
def test_a_classifier_in_its_published_container(convert, golden, tmp_path):
    """With optimiser, epoch and the pickled namespace of the arguments, as the training script saves it."""
    state = published(golden, "bb_cls_base_t8")
    source, target = tmp_path / "V3.pth", tmp_path / "ours.pth"
    args = argparse.Namespace(lr=6e-4, data_path=None)
    others = dict(optimizer=dict(state={}, param_groups=[]), epoch=199, scaler={}, args=args, model_ema=state)
    torch.save(dict(model=state, **others), source)
    told = convert(source, target, "--levels", 4, fresh=True)
    assert "classifier" in told.stdout and "levels 4" in told.stdout and "left_out ['model_ema']" in told.stdout
    saved = torch.load(target, weights_only=True)
    facts = saved["meta"]["sterf_plugins"]
    assert (facts["levels"], facts["mixer"], facts["source"]) == (4, "conv", "V3.pth")
    model = SDTV3(NANO, facts["mixer"], levels=facts["levels"], num_classes=facts["num_classes"]).eval()
    model.load_state_dict(saved["state_dict"], strict=True)
    arrays = golden.case("bb_cls_base_t8")[1]
    assert torch.allclose(model(arrays["x"]), arrays["y.0"], atol=1e-4)


def as_released(name: str, kind: str) -> str:
    """Our names of neck and heads -> the released ones (specs: recipes, section 4)."""
    rules = {
        "detector": [
            (r"(neck\.(?:lateral|fpn)_convs\.\d+)\.conv\.", r"\1.1.0.conv."),
            (r"(rpn_head\.rpn_(?:conv|cls|reg))\.", r"\1.1.0."),
            (r"(roi_head\.bbox_head\.shared_fcs\.\d+)\.1\.", r"\1.1.0."),
            (r"(roi_head\.mask_head\.convs\.\d+)\.conv\.", r"\1.1.0.conv."),
            (r"(roi_head\.mask_head\.(?:upsample|conv_logits))\.", r"\1.1.0."),
        ],
        "segmentor": [
            (r"(neck\.(?:lateral|fpn)_convs\.\d+)\.conv\.", r"\1.0."),
            (r"(neck\.(?:lateral|fpn)_convs\.\d+)\.bn\.", r"\1.1."),
            (r"(decode_head\.scale_heads\.\d+\.\d+)\.conv\.", r"\1.1."),
            (r"(decode_head\.scale_heads\.\d+\.\d+)\.bn\.", r"\1.2."),
        ],
    }[kind]
    for pattern, released in rules:
        name = re.sub(f"^{pattern}", released, name)
    return name


@pytest.mark.parametrize(
    ("kind", "config", "case"),
    [
        ("detector", "mask_rcnn/mask-rcnn_sdtv3-t-srb_spikefpn_ms-1x_coco_reference.py", "bb_det_srb_t8"),
        (
            "segmentor",
            "semantic_fpn/fpn_sdtv3-t-mlpixer_spikefpn_4xb10-160k_ade20k-512x512_reference.py",
            "bb_seg_mlpixer_t8",
        ),
    ],
)
@pytest.mark.slow
def test_a_whole_model(convert, golden, tmp_path, kind, config, case):
    sterf_plugins.setup()
    from mmengine.registry import MODELS, init_default_scope

    from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn

    settings = load_config(str(ROOT / "configs" / config))
    revert_sync_bn(settings)
    init_default_scope(settings.default_scope)
    dims = [8, 16, 24, 32] if kind == "detector" else [4, 8, 16, 32]
    settings.model.backbone.arch = NANO
    settings.model.neck.in_channels = dims
    model = MODELS.build(settings.model)
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    released = {as_released(k, kind): v for k, v in ours.items()}
    state = {f"backbone.{k}": v for k, v in published(golden, case).items()} | released
    source, target = tmp_path / "epoch_12.pth", tmp_path / "ours.pth"
    torch.save(dict(state_dict=state, meta=dict(epoch=12)), source)
    convert(source, target, "--levels", 4, "--layout", "raster")
    converted = torch.load(target, weights_only=True)["state_dict"]
    model.load_state_dict(converted, strict=True)
    assert all(torch.equal(converted[k], v) for k, v in ours.items())
    torch.save(dict(state_dict=state | {"neck.extra.weight": torch.ones(1)}), source)
    refused = convert(source, target, "--levels", 4, "--layout", "raster", "--overwrite", check=False)
    assert refused.returncode == 2 and "neck.extra.weight" in refused.stderr


# --- the other models ------------------------------------------------------------------------------------------------


def zoo_released(kind: str, ours: dict) -> dict:
    """Our entries under the released names; q, k, v apart; convolutions over tokens with one axis less."""
    found = {}
    for key, value in ours.items():
        joined = re.fullmatch(r"(.*\.attn\.)(qkv|qk)(\..*)", key)
        names = joined[2] if joined else "-"
        parts = value.chunk(len(names)) if value.ndim else [value] * len(names)
        for letter, part in zip(names, parts, strict=True):
            name = f"{joined[1]}{letter}{joined[3]}" if joined else key
            for pattern, released in RELEASED[kind]:
                name = re.sub(f"^{pattern}$", released, name)
            if kind in ("spikformer", "qkformer", "max_former") and re.search(r"(attn|tssa)\..*conv\.weight", name):
                part = part.squeeze(-1)
            found[name] = part
    return found


D = r"stages\.0\.downsample\."
RELEASED = {
    "spikformer": [
        (D + r"convs\.0\.conv_bn\.(conv|bn)\.(.*)", r"patch_embed.proj_\1.\2"),
        (D + r"convs\.(\d)\.conv_bn\.(conv|bn)\.(.*)", r"patch_embed.proj_\2\1.\3"),
        (D + r"position\.conv_bn\.(conv|bn)\.(.*)", r"patch_embed.rpe_\1.\2"),
        (r"stages\.(\d+)\.blocks\.0\.(attn\.\w+|mlp\.fc\d)\.conv_bn\.(conv|bn)\.(.*)", r"block.\1.\2_\3.\4"),
    ],
    "sdtv1": [
        (D + r"convs\.0\.conv_bn\.(conv|bn)\.(.*)", r"patch_embed.proj_\1.\2"),
        (D + r"convs\.(\d)\.conv_bn\.(conv|bn)\.(.*)", r"patch_embed.proj_\2\1.\3"),
        (D + r"last\.(conv|bn)\.(.*)", r"patch_embed.proj_\g<1>3.\2"),
        (D + r"position\.(conv|bn)\.(.*)", r"patch_embed.rpe_\1.\2"),
        (r"stages\.(\d+)\.blocks\.0\.(attn\.\w+|mlp\.fc\d)\.(?:conv_bn\.)?(conv|bn)\.(.*)", r"block.\1.\2_\3.\4"),
    ],
    "qkformer": [
        *((D + rf"{ours}\.conv_bn\.(conv|bn)\.(.*)", rf"patch_embed1.{theirs}_\1.\2")
          for ours, theirs in (("conv1", "proj"), ("conv2", "proj1"), ("conv3", "proj2"), ("shortcut", "proj_res"))),
        *((rf"stages\.{n}\.downsample\.{ours}\.conv_bn\.(conv|bn)\.(.*)", rf"patch_embed{n + 1}.{theirs}_\1.\2")
          for n in (1, 2) for ours, theirs in (("conv1", "proj3"), ("conv2", "proj4"), ("shortcut", "proj_res"))),
        *((rf"stages\.{n}\.blocks\.(\d+)\.attn\.(\w+)\.conv_bn\.(conv|bn)\.(.*)", rf"stage{n + 1}.\1.{a}.\2_\3.\4")
          for n, a in ((0, "tssa"), (1, "tssa"), (2, "attn"))),
        *((rf"stages\.{n}\.blocks\.(\d+)\.mlp\.fc(\d)\.conv_bn\.(conv|bn)\.(.*)", rf"stage{n + 1}.\1.mlp.mlp\2_\3.\4")
          for n in (0, 1, 2)),
    ],
    "meta_sdt": [
        *((rf"stages\.{n}\.downsample\.conv_bn\.(conv|bn)\.(.*)", rf"downsample{m}.encode_\1.\2")
          for n, m in ((0, "1_1"), (1, "1_2"), (2, "2"), (3, "3"), (4, "4"))),
        *(rule for n, b, m in ((0, 0, "1_1"), (1, 0, "1_2"), (2, 0, "2_1"), (2, 1, "2_2")) for rule in (
            (rf"stages\.{n}\.blocks\.{b}\.sep_conv\.pw(\d)\.conv\.(.*)", rf"ConvBlock{m}.0.Conv.pwconv\1.\2"),
            (rf"stages\.{n}\.blocks\.{b}\.sep_conv\.pw(\d)\.bn\.(.*)", rf"ConvBlock{m}.0.Conv.bn\1.\2"),
            (rf"stages\.{n}\.blocks\.{b}\.sep_conv\.dw\.(.*)", rf"ConvBlock{m}.0.Conv.dwconv.\1"),
            (rf"stages\.{n}\.blocks\.{b}\.conv(\d)\.(conv|bn)\.(.*)", rf"ConvBlock{m}.0.\2\1.\3"),
        )),
        *((rf"stages\.(3|4)\.blocks\.(\d+)\.attn\.(\w+)\.{ours}\.(.*)", rf"block\1.\2.attn.\3_conv.{theirs}.\4")
          for ours, theirs in (("conv1", "0.body.0"), (r"bn1\.bn", "0.body.1.bn"), ("dw", "0.body.2.0"),
                               (r"pw\.conv", "0.body.2.1"), (r"pw\.bn", "0.body.2.2"), ("bn2", "1"))),
        (r"stages\.(3|4)\.blocks\.(\d+)\.mlp\.fc(\d)\.(conv|bn)\.(.*)", r"block\1.\2.mlp.fc\3_\4.\5"),
    ],
    "max_former": [
        *((D + rf"{ours}\.(conv|bn)\.(.*)", rf"patch_embed1.{theirs}.embed_\1.\2")
          for ours, theirs in ((r"conv1\.conv_bn", "embed1"), (r"conv2\.conv_bn", "embed2"), ("conv3", "embed3"),
                               ("shortcut", "embed4"))),
        *((rf"stages\.{n}\.downsample\.{ours}\.(conv|bn)\.(.*)", rf"patch_embed{n + 1}.{theirs}.embed_\1.\2")
          for n in (1, 2) for ours, theirs in ((r"conv1\.conv_bn", "max_embed1"), ("conv2", "embed1"),
                                               ("shortcut", "max_embed2"))),
        *((rf"stages\.{n}\.blocks\.(\d+)\.attn\.dw\.{part}\.(.*)", rf"stage{n + 1}.\1.mixer.{theirs}.\2")
          for n, part, theirs in ((0, "conv", "conv5"), (0, "bn", "conv5_bn"), (1, "conv", "conv"), (1, "bn", "conv_bn"))),
        (r"stages\.2\.blocks\.(\d+)\.attn\.(\w+)\.(?:conv_bn\.)?(conv|bn)\.(.*)", r"stage3.\1.attn.\2_\3.\4"),
        *((rf"stages\.{n}\.blocks\.(\d+)\.mlp\.fc(\d)\.(conv|bn)\.(.*)", rf"stage{n + 1}.\1.mlp.fc\2_\3.\4")
          for n in (0, 1, 2)),
    ],
}  # fmt: skip
ZOO = {
    "spikformer": (lambda: Spikformer(2, 32, 4, num_classes=5), {"block.0.norm1.weight": torch.ones(32)}),
    "sdtv1": (lambda: SDTV1(2, 32, 4, num_classes=5), {"block.1.attn.talking_heads.weight": torch.ones(4, 4, 1)}),
    "qkformer": (lambda: QKFormer(4, 32, 4, num_classes=5), {}),
    "meta_sdt": (lambda: MetaSDT((8, 16, 32, 48), 4, num_classes=5), {}),
    "max_former": (lambda: MaxFormer(4, 32, 4, num_classes=5), {}),
}


@pytest.mark.parametrize("kind", ZOO)
def test_the_other_models(kind):
    build, dead = ZOO[kind]
    ours = build().state_dict()
    released = zoo_released(kind, ours)
    assert not {k for k in released if k.startswith("stages.")}
    converted = convert_state_dict({"state_dict": released | dead})
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[k], v) for k, v in ours.items())
    assert convert_state_dict(ours).keys() == ours.keys()  # our own names pass through
    with pytest.raises(ValueError, match=r"unknown keys \(1\):\n  surprise.weight"):
        convert_state_dict(released | {"surprise.weight": torch.ones(1)})
    lacking = {k: v for k, v in released.items() if not k.endswith("running_mean")}
    with pytest.raises(ValueError, match="running_mean: missing"):
        convert_state_dict(lacking)


@pytest.mark.slow
def test_the_tool_takes_them_too(convert, tmp_path):
    released = zoo_released("sdtv1", ZOO["sdtv1"][0]().state_dict())
    torch.save(dict(state_dict=released), tmp_path / "a.pth")
    assert "SDT-V1" in convert(tmp_path / "a.pth", tmp_path / "b.pth").stdout
    assert (
        json.loads(json.dumps(torch.load(tmp_path / "b.pth", weights_only=True)["meta"]["sterf_plugins"]))["dim"] == 32
    )
    refused = convert(tmp_path / "a.pth", tmp_path / "c.pth", "--levels", 4, check=False)
    assert refused.returncode == 2 and "with LIF neurons" in refused.stderr


@pytest.mark.slow
def test_levels_and_layout_go_along(convert, golden, tmp_path):
    """The given options are compared where the file is loaded, by the tools or in Python."""
    torch.save(dict(model=published(golden, "bb_det_mlpixer_t8")), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "--levels", 8, "--layout", "raster")
    state = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    options = dict(arch=NANO, mixer="mlpixer", norm_hidden=False)
    SDTV3(levels=8, layout="raster", **options).load_state_dict(state)
    for others in (dict(levels=4, layout="raster"), dict(levels=8, layout="channel")):
        with pytest.warns(UserWarning, match="weights that were saved with (levels=8|layout='raster')"):
            SDTV3(**others, **options).load_state_dict(state)


# --- bad files -------------------------------------------------------------------------------------------------------


class Runs:
    def __reduce__(self):
        return os.system, ("echo this must not run > ran.txt",)


@pytest.mark.slow
def test_bad_files_and_arguments(convert, golden, tmp_path):
    state = published(golden, "bb_det_mlpixer_t8")
    good, out = tmp_path / "good.pth", tmp_path / "out.pth"
    torch.save(dict(model=state), good)
    whole = good.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_bytes(b"hello")
    torch.save(dict(model=state, hook=Runs()), tmp_path / "code.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    lost = next(key for key, value in state.items() if value.is_floating_point())
    torch.save(state | {lost: state[lost] * float("nan")}, tmp_path / "diverged.pth")
    torch.save(dict(model={"layer1.0.conv1.weight": torch.ones(1)}), tmp_path / "resnet.pth")
    torch.save(dict(model={k: v for k, v in state.items() if "fc2" not in k}), tmp_path / "other_mixer.pth")
    for arguments, message in [
        ((tmp_path / "none.pth", out), "no checkpoint"),
        ((tmp_path / "half.pth", out), "is truncated or no checkpoint"),
        ((tmp_path / "text.pth", out), "is truncated or no checkpoint"),
        ((tmp_path / "code.pth", out), "is refused: it wants to call posix.system"),
        ((tmp_path / "tensor.pth", out), "holds a Tensor"),
        ((tmp_path / "resnet.pth", out, "--levels", 4), "unknown keys"),
        ((tmp_path / "other_mixer.pth", out, "--levels", 4), "are of no known mixer"),
        (
            (tmp_path / "diverged.pth", out, "--levels", 4, "--layout", "raster"),
            "has entries with NaN or infinite numbers",
        ),
        ((good, tmp_path / "out.safetensors", "--levels", 4), "under a name of another format; call it out.pth"),
        ((good, out), "give --levels 4"),
        ((good, out, "--levels", 0, "--layout", "raster"), "--levels is 0"),
        ((good, out, "--levels", 4), "give --layout raster"),
        ((good, good, "--levels", 4, "--layout", "raster"), "exists; give another name"),
        ((good, tmp_path / "no" / "out.pth", "--levels", 4), "does not exist"),
    ]:
        done = convert(*arguments, check=False)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert not out.exists() and not list(tmp_path.glob(".*partial*")) and not (tmp_path / "ran.txt").exists()
    assert not Path("ran.txt").exists()


def test_checkpoints_of_a_real_training_are_read_safely(tmp_path):
    """mmengine's files hold log buffers and numpy arrays besides tensors."""
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("test_convert")
    hub.update_scalar("train/loss", 0.5)
    torch.save(
        dict(state_dict={"a": torch.ones(2)}, message_hub=hub.state_dict(), meta=dict(epoch=1)), tmp_path / "e.pth"
    )
    assert torch.equal(read_checkpoint(tmp_path / "e.pth")["state_dict"]["a"], torch.ones(2))


def test_safetensors_files_are_read(tmp_path):
    """timm, the Hugging Face hub and ``sterf card`` write such files."""
    net = SDTV3(NANO, num_classes=3)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    state = read_checkpoint(tmp_path / "model.safetensors")
    assert state.keys() == net.state_dict().keys() and torch.equal(state["head.weight"], net.head.weight)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello, I am no such file"):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"bad\.safetensors cannot be read, it is truncated or no safetensors file"
        ):
            read_checkpoint(tmp_path / "bad.safetensors")


def test_checkpoints_of_numpy_1_are_read(tmp_path):
    """numpy 1 named ``numpy.core`` in its pickles, numpy 2 names ``numpy._core``."""
    arrays = dict(mean=np.arange(3.0), best=np.float64(0.25))
    torch.save(dict(state_dict={"a": torch.ones(2)}, meta=arrays), tmp_path / "new.pth")
    names = {b"numpy.core.multiarray", b"numpy._core.multiarray"}
    (here,) = (name for name in names if name in (tmp_path / "new.pth").read_bytes())
    (there,) = names - {here}
    with zipfile.ZipFile(tmp_path / "new.pth") as source, zipfile.ZipFile(tmp_path / "old.pth", "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith("data.pkl"):
                assert here + b"\n" in data  # a line of the pickle's text, so that its length does not matter
                data = data.replace(here + b"\n", there + b"\n")
            target.writestr(entry, data)
    for name in ("new.pth", "old.pth"):
        meta = read_checkpoint(tmp_path / name)["meta"]
        assert np.array_equal(meta["mean"], arrays["mean"]) and meta["best"] == 0.25


@pytest.mark.slow
def test_pretrained_of_the_mmengine_backbone(golden, tmp_path):
    sterf_plugins.setup()
    from mmengine.registry import MODELS

    path = tmp_path / "published.pth"
    torch.save(dict(model=published(golden, "bb_det_mlpixer_t8")), path)
    released = dict(type="sterf_plugins.SDTV3", arch=NANO, mixer="mlpixer", layout="raster", norm_hidden=False)
    model = MODELS.build(dict(released, pretrained=str(path)))
    model.init_weights()
    expected = convert_state_dict(published(golden, "bb_det_mlpixer_t8"))
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    for checkpoint, message in [
        (str(tmp_path / "none.pth"), "no checkpoint"),
        ("https://localhost:9/none.pth", "cannot be fetched"),
        (str(path), "which is not this"),
    ]:
        other = MODELS.build(dict(type="sterf_plugins.SDTV3", arch=NANO, mixer="srb", pretrained=checkpoint))
        with pytest.raises(ValueError, match=message):
            other.init_weights()
