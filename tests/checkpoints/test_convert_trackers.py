"""Published checkpoints of SDTrack: the converting tool, `init_cfg`, and weights of another variant."""

import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_trackers import arrays, inputs, tracker

import sterf_plugins

sterf_plugins.setup()

from sterf_plugins.checkpoints import read_checkpoint  # noqa: E402
from sterf_plugins.cli.loading import load_weights  # noqa: E402
from sterf_plugins.cli.training import check_checkpoint  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "model_converters" / "convert.py"


@pytest.fixture
def authors(monkeypatch):
    """``authors(file, name, config)``: a golden network in the authors' file, with objects of classes that are then gone."""
    modules = {name: types.ModuleType(name) for name in ("lib", "lib.train", "lib.train.admin")}
    for module, cls in (("lib.train.admin.settings", "Settings"), ("lib.train.admin.stats", "AverageMeter")):
        modules[module] = types.ModuleType(module)
        setattr(modules[module], cls, type(cls, (), {"__module__": module}))

    def write(path: Path, name: str, config: str | None = None, key: str = "net", **more) -> Path:
        state = {
            k.removeprefix("state/"): torch.from_numpy(v)
            for k, v in arrays(f"model_{name}").items()
            if k.startswith("state/")
        }
        state |= {
            k.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
            for k in state
            if k.endswith("running_mean")
        }
        settings = modules["lib.train.admin.settings"].Settings()
        settings.__dict__.update(config_name=config, env=settings, batchsize=8)
        stats = modules["lib.train.admin.stats"].AverageMeter()
        file = dict(epoch=100, net_type="SDTrack", settings=settings, stats=dict(loss=stats), optimizer={})
        if key == "model":
            state, file = (
                {k.removeprefix("backbone."): v for k, v in state.items() if not k.startswith("box_head.")},
                {},
            )
        with monkeypatch.context() as patch:
            for module in modules:
                patch.setitem(sys.modules, module, modules[module])
            torch.save({**file, key: state | more}, path)
        return path

    return write


def small(net) -> dict:
    """The config of a golden network."""
    return dict(
        type="sterf_plugins.SDTrack",
        arch=dict(embed_dims=list(net.backbone.stage_dims[1:]), num_heads=4),
        variant=net.variant,
        head_width=net.head.branches["score"][1].conv.out_channels,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("1x4_conv", []), ("2x2_conv", ["--variant", "2x2"]), ("4x1_srb_raster", None)]
)
def test_a_tracker_in_its_published_container(forked, authors, tmp_path, name, options):
    """Of two variants with the same entries, the settings or an option say which one it is."""
    source = authors(tmp_path / "SDTrack_ep0100.pth.tar", name, "SDTrack-tiny-4x1" if options is None else None)
    options = ["--layout", "raster"] if options is None else options
    done = forked(TOOL, source, tmp_path / "ours.pth", *options)
    assert done.returncode == 0, done.stderr
    net, golden = tracker(name)
    assert "kind tracker" in done.stdout and f"variant {net.variant}" in done.stdout and "'settings'" in done.stdout
    saved = torch.load(tmp_path / "ours.pth", weights_only=True)
    facts = saved["meta"]["sterf_plugins"]
    left_out = {"epoch", "net_type", "settings", "stats", "optimizer"}
    if "state/backbone.head.weight" in golden:
        left_out |= {"backbone.head.weight", "backbone.head.bias"}
    assert set(facts["left_out"]) == left_out
    given = {
        k: facts[k]
        for k in ("mixer", "ratio", "norm_hidden", "layout", "sep_conv", "variant", "head_width")
        if k in facts
    }
    arch = facts["arch"] | dict(num_heads=4)  # 8 in the published ones
    model = MODELS.build(dict(type="sterf_plugins.SDTrack", arch=arch, **given)).double().eval()
    model.load_state_dict(saved["state_dict"], strict=True)
    with torch.no_grad():
        score = model.network(*inputs(net)).score
    assert np.allclose(score, golden["score_map"], atol=1e-6) and score.std() > 0


def test_a_classifier_from_which_a_tracker_starts(forked, authors, tmp_path):
    source = authors(tmp_path / "SDTrack-tiny-2x2.pth", "2x2_conv", key="model")
    done = forked(TOOL, source, tmp_path / "ours.pth", "--variant", "2x2")
    assert done.returncode == 0 and "kind backbone" in done.stdout, done.stderr
    saved = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert not [key for key in saved if ".head." in key or "classifier" in key]
    net, _ = tracker("2x2_conv")
    own = {f"network.{k}": v for k, v in net.state_dict().items() if not k.startswith(("head.", "backbone.head."))}
    assert set(saved) == {*own, "variant"}
    assert all(torch.equal(saved[k], v) for k, v in own.items() if not k.endswith("num_batches_tracked"))


@pytest.mark.slow
def test_init_cfg_takes_published_files(authors, tmp_path):
    net, _ = tracker("4x1_conv")
    wanted = net.state_dict()
    for key in ("net", "model"):
        source = str(authors(tmp_path / f"{key}.pth", "4x1_conv", "SDTrack-tiny-4x1", key))
        model = MODELS.build(small(net) | dict(init_cfg=dict(type="Pretrained", checkpoint=source)))
        fresh = model.network.head.branches["score"][1].conv.weight.clone()
        model.init_weights()
        assert torch.equal(
            model.network.backbone.stages[3].blocks[0].mlp.fc1.conv.weight,
            wanted["backbone.stages.3.blocks.0.mlp.fc1.conv.weight"],
        )
        head = model.network.head.branches["score"][1].conv.weight
        assert torch.equal(head, fresh if key == "model" else wanted["head.branches.score.1.conv.weight"])
    for change, message in (
        (dict(variant="1x4"), "is of an SDTrack of variant 4x1, and this one is of variant 1x4"),
        (dict(variant="2x2"), "is of an SDTrack of variant 4x1, and this one is of variant 2x2"),
        (dict(sep_conv=True), r"does not fit this SDTrack: \d+ entries .* sep_conv"),
        (dict(head_width=8), "does not fit this SDTrack: .*head"),
    ):
        config = small(net) | dict(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "net.pth"))) | change
        with pytest.raises(ValueError, match=message):
            MODELS.build(config).init_weights()
    torch.save(MODELS.build(small(net)).state_dict(), tmp_path / "own.pth")
    config = small(net) | dict(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "own.pth")))
    with pytest.raises(
        ValueError, match=r"own.pth is no published SDTrack; give a checkpoint of this package as `load_from`"
    ):
        MODELS.build(config).init_weights()


def test_weights_of_another_variant_are_refused(authors, tmp_path):
    """All of their names and shapes fit, so only what the checkpoint says of itself can tell."""
    net, _ = tracker("2x2_conv")
    ours, other = (MODELS.build(small(net) | dict(variant=variant)) for variant in ("2x2", "4x1"))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    with pytest.raises(
        ValueError, match="checkpoint is of an SDTrack of variant 2x2, and the config's is of variant 4x1"
    ):
        other.load_state_dict(ours.state_dict())
    fresh = MODELS.build(small(net))
    fresh.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "config", "options", "message"),
    [
        (
            "2x2_conv",
            None,
            [],
            "is an SDTrack of variant 2x2 or 4x1, whose entries are alike, and it does not say which: give --variant",
        ),
        (
            "2x2_conv",
            None,
            ["--variant", "1x4"],
            "is of an SDTrack of variant 2x2 or 4x1, and this one is of variant 1x4",
        ),
        (
            "4x1_conv",
            "SDTrack-tiny-4x1",
            ["--variant", "2x2"],
            "is of an SDTrack of variant 4x1, and this one is of variant 2x2",
        ),
        ("1x4_conv", None, ["--levels", "4"], "--levels is of SDT-V3"),
        ("4x1_srb_raster", "SDTrack-tiny-4x1", [], "has srb mixers: give --layout raster"),
    ],
)
@pytest.mark.slow
def test_mistakes(forked, authors, tmp_path, name, config, options, message):
    source = authors(tmp_path / "a.pth.tar", name, config)
    done = forked(TOOL, source, tmp_path / "ours.pth", *options)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth.tar"]


def test_entries_that_fit_nowhere(forked, authors, tmp_path):
    extra = {"backbone.block9.0.attn.weight": torch.ones(2)}
    done = forked(TOOL, authors(tmp_path / "a.pth", "1x4_conv", **extra), tmp_path / "b.pth")
    assert done.returncode == 2 and "unknown keys (1)" in done.stderr and "block9" in done.stderr


def test_a_published_tracker_that_is_loaded_as_it_is(authors, tmp_path):
    """Tools that load weights name the command that converts it."""
    path = str(authors(tmp_path / "a.pth.tar", "1x4_conv"))
    model = torch.nn.Linear(1, 1)
    for load in (
        lambda: load_weights(SimpleNamespace(model=model), path),
        lambda: check_checkpoint(SimpleNamespace(model=model), path, strict=False),
    ):
        with pytest.raises(
            ValueError, match=r"is an SDTrack under the names of its authors; .*: sterf convert .*a.pth.tar"
        ):
            load()


def test_a_tracker_of_this_package_is_no_published_one(forked, tmp_path):
    torch.save(dict(state_dict={"network.backbone.stages.0.downsample.conv.bias": torch.ones(2)}), tmp_path / "a.pth")
    for variant in ([], ["--variant", "4x1"]):
        done = forked(TOOL, tmp_path / "a.pth", tmp_path / "b.pth", *variant)
        assert done.returncode == 2 and "which are the names of this package already: load it as it is" in done.stderr


class Harmful:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_only_the_authors_classes_become_inert(authors, tmp_path):
    """What a file calls beside them is refused, and nothing of it runs."""
    saved = read_checkpoint(authors(tmp_path / "a.pth", "1x4_conv", "SDTrack-tiny-1x4"))
    assert type(saved["settings"]).__name__ == "Settings" and saved["settings"].config_name == "SDTrack-tiny-1x4"
    assert not hasattr(type(saved["settings"]), "run") and saved["settings"].env is saved["settings"]
    path = authors(tmp_path / "b.pth", "1x4_conv")
    torch.save(dict(net={}, settings=Harmful(tmp_path / "ran")), path)
    with pytest.raises(ValueError, match=r"is refused: it wants to call (posix|nt).mkdir"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
