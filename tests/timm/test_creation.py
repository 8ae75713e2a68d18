"""Models are created as timm's are: on any device, from local files, with any options; and they are torn apart alike."""

import json
import os

import pytest
import timm
import torch
from live import equal, images, live, same
from timm.models import save_for_hf
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import sterf_plugins.timm  # noqa: F401


def options_of(name):
    """Options that make a model of the family small, for tests that look at weights."""
    if name.startswith("sdtv3") or name == "covrf_sdtv3_tiny_srb":
        return dict(arch=dict(embed_dims=[8, 16, 24, 32], num_heads=4))
    if name.startswith("meta_sdt"):
        return dict(embed_dims=(8, 16, 32, 32), T=2)
    if name.startswith(("qkformer", "max_former")):
        return dict(dim=32, num_heads=2, depth=4, T=2)
    if name.startswith("scale_covariant"):
        return dict(dims=(8, 16, 16, 24), scales=(1, 2))
    return dict() if name.startswith("covrf") else dict(dim=32, num_heads=2, depth=3, T=2)


def alive(name, seed=0, **options):
    """A small model whose layers fire, down to the head."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{**options_of(name), "num_classes": 5, **options})
    return live(model)


# --- devices and channels ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
def test_every_model_is_built_on_the_meta_device(any_name):
    with torch.device("meta"):
        inside = timm.create_model(any_name)
        features = timm.create_model(any_name, features_only=True)
    given = timm.create_model(any_name, device="meta", dtype=torch.float64)
    for model in (inside, features, given):
        assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert {p.dtype for p in given.parameters()} == {torch.float64}
    assert {k: v.shape for k, v in inside.state_dict().items()} == {k: v.shape for k, v in given.state_dict().items()}
    x = torch.empty(2, 3, 64, 64, device="meta")
    assert inside(x).shape == (2, 1000)
    assert [y.shape[1] for y in features(x)] == features.feature_info.channels()


@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
@pytest.mark.slow
def test_every_model_takes_other_channels(any_name):
    model = timm.create_model(any_name, in_chans=2, device="meta")
    assert model.in_chans == 2 and model(torch.empty(1, 2, 64, 64, device="meta")).shape == (1, 1000)


def test_values_do_not_depend_on_how_the_device_is_given(small_name):
    torch.manual_seed(3)
    plain = timm.create_model(small_name, **options_of(small_name)).state_dict()
    torch.manual_seed(3)
    given = timm.create_model(small_name, **options_of(small_name), device="cpu", dtype=torch.float32).state_dict()
    assert plain.keys() == given.keys() and all(torch.equal(given[k], v) for k, v in plain.items())


def test_empty_batches(small_name):
    model = timm.create_model(small_name, **options_of(small_name), num_classes=5)
    for training in (True, False):
        x = torch.zeros(0, 3, 64, 64, requires_grad=True)
        y = model.train(training)(x)
        y.sum().backward()
        assert y.shape == (0, 5) and x.grad.shape == x.shape
        assert not any(p.grad.any() for p in model.parameters())
        features = model.forward_intermediates(x, intermediates_only=True)
        assert [len(f) for f in features] == [0] * len(features)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.sweep
def test_a_saved_model_is_loaded_in_every_way(small_name, tmp_path):
    options = {**options_of(small_name), "num_classes": 5}
    model = alive(small_name)
    path = tmp_path / "weights.pth"
    torch.save(dict(state_dict=model.state_dict(), epoch=3), path)
    save_for_hf(model, tmp_path / "folder")

    assert same(timm.create_model(small_name, checkpoint_path=str(path), **options).eval(), model)
    overlay = dict(file=str(path), num_classes=5)
    assert same(timm.create_model(small_name, True, pretrained_cfg_overlay=overlay, **options).eval(), model)
    assert same(timm.create_model(f"local-dir:{tmp_path}/folder", True).eval(), model)
    other = timm.create_model(f"local-dir:{tmp_path}/folder")
    assert not same(other.eval(), model)  # without pretrained=True the weights stay random

    features = timm.create_model(f"local-dir:{tmp_path}/folder", True, features_only=True, out_indices=(1,)).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    assert expected.std() > 0 and torch.equal(features(x)[0], expected)


@pytest.mark.slow
@pytest.mark.sweep
def test_a_model_of_the_hub_is_loaded_from_its_cache(small_name, tmp_path, monkeypatch):
    """The hub's client finds what it has downloaded before, as it does on a machine without a network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = alive(small_name)
    entry = tmp_path / "models--someone--something"
    save_for_hf(model, entry / "snapshots" / ("0" * 40))
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0" * 40)
    assert same(timm.create_model("hf-hub:someone/something", True, cache_dir=str(tmp_path)).eval(), model)


@pytest.mark.slow
def test_a_published_checkpoint_is_loaded_by_its_path(golden, tmp_path):
    _, arrays, state = golden.case("bb_cls_base_t8")
    path = tmp_path / "published.pth"
    torch.save({"model": state}, path)
    arch = dict(embed_dims=[8, 16, 24, 32], num_heads=4)
    model = timm.create_model("sdtv3_nano", arch=arch, num_classes=10, checkpoint_path=str(path)).eval()
    assert torch.allclose(model(arrays["x"]), arrays["y.0"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["sdtv3_nano_srb", "covrf_sdtv3_tiny_srb", "covrf_resnet18"])
def test_a_checkpoint_of_another_model_is_refused_for_features_too(stored, tmp_path):
    """timm itself is silent about missing entries where the classifier is left out."""
    name = "covrf_resnet18" if stored == "covrf_resnet18" else "sdtv3_nano"
    model = timm.create_model("resnet18" if stored == "covrf_resnet18" else stored)
    path = tmp_path / "other.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match="the checkpoint is not of this model"):
        timm.create_model(name, True, features_only=True, pretrained_cfg_overlay=dict(file=str(path)))


def test_a_stock_models_weights_and_a_covariant_stem():
    """Without a file of its own, `pretrained=True` asks for the stock weights; here there is no network."""
    cfg = timm.get_pretrained_cfg("covrf_resnet18")
    stock = timm.get_pretrained_cfg("resnet18")
    assert not cfg.has_weights and (cfg.mean, cfg.crop_pct, cfg.interpolation) == (
        stock.mean,
        stock.crop_pct,
        stock.interpolation,
    )
    model = timm.create_model("covrf_resnet18", rf_init="rf-free", rf_learn=())
    assert model.conv1.weight.shape == (64, 3, 7, 7) and model.pretrained_cfg["architecture"] == "covrf_resnet18"
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("covrf_resnet18.nothing")


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["getter", "hook", "fx"])
@pytest.mark.sweep
def test_feature_extractors_agree(small_name, extractor, tmp_path):
    model = alive(small_name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    found = timm.create_model(
        small_name,
        True,
        features_only=True,
        feature_cls=extractor,
        num_classes=5,
        pretrained_cfg_overlay=dict(file=str(tmp_path / "weights.pth")),
        **options_of(small_name),
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model.forward_intermediates(x, intermediates_only=True)
    got = found(x)
    assert [y.shape for y in got] == [y.shape for y in expected] and got[0].ndim == 4
    assert all(y.std() > 0 and torch.allclose(z, y, atol=1e-6) for y, z in zip(expected, got, strict=True))


@pytest.mark.slow
@pytest.mark.sweep
def test_torchvisions_extractor(small_name):
    model = alive(small_name)
    node = model.feature_info[1]["module"]
    seen = {}
    handle = model.get_submodule(node).register_forward_hook(lambda m, args, y: seen.update(y=y))
    x = torch.randn(2, 3, 64, 64)
    model(x)
    handle.remove()
    extract = create_feature_extractor(model, {node: "y"})
    assert seen["y"].std() > 0 and torch.equal(extract(x)["y"], seen["y"])


def test_the_head_continues_the_features(small_name):
    """Exactly, where the head has no neuron; a neuron reads the course over time, which `keep_time` keeps."""
    timed = {"keep_time": True} if small_name.startswith(("sdtv1", "meta_sdt", "max_former")) else {}
    model = alive(small_name, **timed)
    x = images()
    logits = model(x)
    assert logits.std(0).max() > 1e-3
    assert torch.allclose(model.forward_head(model.forward_features(x)), logits, atol=1e-5)
    if timed:
        model.keep_time = False
        assert model.forward_features(x).ndim == 4 and model.forward_head(model.forward_features(x)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "options", "points"),
    [
        ("spikformer_8_384", dict(depth=3), 3),
        ("sdtv1_8_384", dict(depth=10, dim=32, num_heads=2), 10),
        ("qkformer_10_384", dict(depth=4), 3),
        ("max_former_10_384", dict(depth=4), 3),
    ],
)
@pytest.mark.parametrize("extractor", ["getter", "fx"])
def test_features_after_a_change_of_depth(name, options, points, extractor):
    model = timm.create_model(name, features_only=True, feature_cls=extractor, T=1, **options)
    assert len(model(torch.randn(1, 3, 32, 32))) == len(model.feature_info.channels()) == points


def test_torchscript_is_refused(small_name):
    for options in ({}, dict(features_only=True)):
        with pytest.raises(TypeError, match=r"torch\.jit\.script cannot compile a \w+[:;].*torch\.compile\.$"):
            torch.jit.script(timm.create_model(small_name, **options_of(small_name), **options))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of shapes
@pytest.mark.sweep
def test_a_traced_model_is_the_model(small_name, tmp_path):
    """While a model is traced, all of it runs in operations that the tracer can record and save, with gradients or without."""
    model = alive(small_name)
    if hasattr(model, "scales"):
        with pytest.raises(TypeError, match=r"use torch\.export"):
            torch.jit.trace(model, images())
        return
    traced = torch.jit.trace(model, images(1, 48), check_trace=False)
    x = images()
    assert equal(model(x), traced(x))
    traced.save(tmp_path / "traced.pt")
    assert equal(model(x), torch.jit.load(tmp_path / "traced.pt")(x))


def test_inputs_of_whole_numbers_are_refused(small_name):
    model = timm.create_model(small_name, num_classes=5, **options_of(small_name)).eval()
    with pytest.raises(TypeError, match=r"`x` has dtype torch\.uint8.*x\.float\(\)"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# --- dropout and stochastic depth -------------------------------------------------------------------------------------


def test_drop_path_rates_grow_as_in_timm(small_name):
    model = timm.create_model(small_name, drop_path_rate=0.3, device="meta")
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    blocks = sum(len(stage.blocks) for stage in model.stages) if hasattr(model, "stages") else 8
    assert rates == pytest.approx([0.3 * i / (blocks - 1) for i in range(1, blocks)])


@pytest.mark.slow
@pytest.mark.sweep
def test_without_rates_nothing_changes(small_name):
    torch.manual_seed(1)
    plain = timm.create_model(small_name, **options_of(small_name))
    torch.manual_seed(1)
    zero = timm.create_model(small_name, drop_rate=0.0, drop_path_rate=0.0, **options_of(small_name))
    dropping = timm.create_model(small_name, drop_rate=0.2, drop_path_rate=0.2, **options_of(small_name))
    assert not [m for m in zero.modules() if type(m).__name__ == "DropPath"]
    assert plain.state_dict().keys() == zero.state_dict().keys() == dropping.state_dict().keys()
    x = torch.randn(4, 3, 64, 64)
    outputs = []
    for model in (plain, zero):
        torch.manual_seed(2)
        outputs.append((model.train()(x), model.forward_features(x)))
    assert outputs[0][1].std() > 0 and all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert dropping.eval()(x).shape == (4, 1000)


def test_a_branch_is_dropped_for_a_sample_in_all_time_steps():
    from sterf_plugins.layers.drop_path import drop_path

    torch.manual_seed(0)
    layer = drop_path(0.25, over_time=True).train()
    kept = layer(torch.ones(4, 4000, 2, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(kept, kept[:1, :, :1].expand_as(kept))  # one draw for all steps and channels of a sample
    assert (kept[0, :, 0] > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(layer.eval()(kept), kept) and isinstance(drop_path(0.0), nn.Identity)


@pytest.mark.parametrize(
    "name", ["sdtv3_nano_srb", "spikformer_8_384", "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384"]
)
def test_dropped_branches_leave_the_residual_stream_alone(name):
    """At a rate near 1 a block that drops all of its branches passes its input on."""
    model = timm.create_model(name, drop_path_rate=0.999999, **options_of(name)).train()
    seen = {}
    block = model.stages[-1].blocks[-1]
    block.register_forward_hook(lambda m, args, y: seen.update(x=args[0], y=y))
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(seen["x"], seen["y"])


def test_dropout_in_front_of_the_head(small_name):
    model = alive(small_name, drop_rate=0.5)
    with torch.no_grad():
        features = model.forward_features(images())
        steady = model.forward_head(features)
        assert torch.equal(model.forward_head(features), steady)
        model.training = True  # timm's ResNet asks the model itself
        getattr(model, "head_drop", model).training = True
        draws = torch.stack([model.forward_head(features) for _ in range(400)])
    assert draws.std(0).max() > 0.01
    assert ((draws.mean(0) - steady).abs() <= 6 * draws.std(0) / 20 + 1e-5).all()


@pytest.mark.parametrize(("option", "value"), [("drop_rate", 1.5), ("drop_path_rate", -0.1), ("drop_path_rate", 1.0)])
def test_rates_out_of_range(option, value):
    with pytest.raises(ValueError, match=f"`{option}` is {value}"):
        timm.create_model("spikformer_8_384", **{option: value})


def test_what_timm_saves_names_the_model(tmp_path):
    save_for_hf(alive("covrf_resnet18"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "covrf_resnet18"
    assert os.path.getsize(tmp_path / "pytorch_model.bin") > 1e6


@pytest.mark.slow
def test_what_timms_scripts_ask_for(small_name, tmp_path):
    """The calls of timm's train.py, benchmark.py, validate.py and inference.py, with the checkpoint that the first saves."""
    from argparse import Namespace

    from timm.optim import create_optimizer_v2
    from timm.utils import CheckpointSaver

    asked = dict(in_chans=3, num_classes=5, drop_rate=0.1, drop_path_rate=0.2, drop_block_rate=None, global_pool=None)
    asked |= dict(bn_momentum=None, bn_eps=None, scriptable=False, checkpoint_path="", pretrained=False)
    model = timm.create_model(small_name, **asked, **options_of(small_name))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, layer_decay=0.7)
    torch.nn.functional.cross_entropy(model(images(4)), torch.arange(4)).backward()
    optimizer.step()
    model.load_state_dict(alive(small_name).state_dict())
    saver = CheckpointSaver(model, optimizer, args=Namespace(model=small_name), checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    path = str(tmp_path / "last.pth.tar")
    arguments = dict(num_classes=5, checkpoint_path=path, **options_of(small_name))
    if hasattr(timm.models, "resolve_model_input_args"):  # newer scripts ask it first
        arguments = timm.models.resolve_model_input_args(small_name, dict(input_size=(3, 64, 64)), **arguments)
    else:
        arguments["model_name"] = small_name
    assert same(timm.create_model(**arguments).eval(), model.eval())
