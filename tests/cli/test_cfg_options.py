"""What ``--cfg-options`` makes of its arguments, and which of them are refused."""

import argparse
import re
from pathlib import Path

import pytest
from cfg_options import settings_of

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402

from sterf_plugins.cli import training as cli  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import PACKAGES, check_names, config_root, load_config, merge_options  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
STOCK_SEGMENTOR = "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1,2", [1, 2]),
        ("(1,2)", (1, 2)),
        ("(disc)", ("disc",)),
        ("[a,b]", ["a", "b"]),
        ("true", True),
        ("None", None),
        ("data/{name}.json", "data/{name}.json"),
        ("/my data (1)/shapes", "/my data (1)/shapes"),
        ("a, b", ["a", "b"]),
        ("('traffic light', 'dog')", ("traffic light", "dog")),
        ("dict(max_norm=35)", {"max_norm": 35}),
        ("{'a.b': dict(lr_mult=0.1)}", {"a.b": {"lr_mult": 0.1}}),
        ("[dict(type='RandomFlip', prob=(0.5, None)), dict()]", [{"type": "RandomFlip", "prob": (0.5, None)}, {}]),
    ],
)
def test_values_of_settings(text, value):
    assert settings_of(f"a.b={text}", "c=1") == {"a.b": value, "c": 1}


@pytest.mark.parametrize(
    "text", ["f(1,2)", "[dict(type=RandomFlip)]", "dict(a=__import__('os').getcwd())", "dict(**{'a': 1})", "['a',b]"]
)
def test_values_that_cannot_be_read(text):
    with pytest.raises(argparse.ArgumentError, match="cannot be read; write all strings inside brackets in quotes"):
        settings_of(f"a={text}")


@pytest.mark.parametrize("before", [None, {"max_norm": 1}])
@pytest.mark.parametrize("text", ["optim_wrapper.clip_grad.max_norm=35", "optim_wrapper.clip_grad=dict(max_norm=35)"])
def test_clipping_can_be_switched_on(text, before):
    """Stock segmentors have ``clip_grad=None``."""
    config = Config(dict(optim_wrapper=dict(type="OptimWrapper", clip_grad=before)))
    merge_options(config, settings_of(text))
    assert config.optim_wrapper == dict(type="OptimWrapper", clip_grad=dict(max_norm=35))


def test_settings_of_one_part_add_up_in_any_order():
    for texts in (("a.b.c=1", "a.b=dict(d=2)"), ("a.b=dict(d=2)", "a.b.c=1")):
        config = Config(dict(a=dict(b=dict(c=0, e=3))))
        merge_options(config, settings_of(*texts))
        assert config.a.b == dict(c=1, d=2, e=3)


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match=r"a=None and a.b=1 contradict each other"):
        merge_options(Config(dict(a=dict(b=0))), settings_of("a=None", "a.b=1"))


def test_elements_of_lists():
    """Such as the scales inside test-time augmentation, a list of lists; elements that are dicts are merged."""
    config = Config(dict(a=[dict(type="A", b=[[1, 2], 3])], c=(1, 2)))
    merge_options(config, settings_of("a.0.b.0=[dict(d=1)]", "a.0.b.1=7", "a.0.type=B"))
    assert config.a == [dict(type="B", b=[[dict(d=1)], 7])]
    with pytest.raises(ValueError, match=r"a.0.b.2=1: a.0.b has 2 elements, from 0 to 1"):
        merge_options(config, settings_of("a.0.b.2=1"))
    with pytest.raises(ValueError, match=r"c.0=5: c is the tuple \(1, 2\); set it as a whole"):
        merge_options(config, settings_of("c.0=5"))


ADVISED = re.compile(r"--cfg-options ((?:[\w.]+=[^\s`'\"(){},;]+[^\s`'\"(){},;.] ?)+)")


def test_settings_that_documents_and_messages_advise_can_be_typed():
    """Each ``--cfg-options KEY=VALUE`` of docs, READMEs and sources; what stands in braces is filled in at run time."""
    files = [p for folder in ("docs", "configs", "sterf_plugins", "tools") for p in (ROOT / folder).rglob("*.*")]
    files = [p for p in [*files, ROOT / "README.md"] if p.suffix in (".py", ".md") and ".mim" not in p.parts]
    advised = {text for path in files for text in ADVISED.findall(path.read_text())}
    assert len(advised) >= 3
    for text in advised:
        settings = settings_of(*text.split())
        config = load_config(STOCK_SEGMENTOR)
        merge_options(config, settings)
        for key, value in settings.items():
            *parents, last = key.split(".")
            node = config
            for name in parents:
                node = node[name]
            assert last == "_delete_" or node[last] == value


def test_a_variable_whose_value_settings_hold_under_other_names():
    config = load_config(str(ROOT / "configs/sd_track_rendered/sdtrack-small-1x4_conv_rendered.py"))
    with pytest.raises(ValueError, match=r"iterations=3 changes nothing.*500 is now .*train_cfg\.max_iters"):
        merge_options(config, settings_of("iterations=3"))
    merge_options(config, settings_of("train_cfg.max_iters=3"))
    assert config.train_cfg.max_iters == 3


@pytest.mark.parametrize(
    ("name", "meant"), [("optim_wraper", "optim_wrapper"), ("train_cgf", "train_cfg"), ("val_cf", "val_cfg")]
)
def test_a_misspelt_setting_is_named_before_a_training_goes_on_without_it(name, meant):
    """From ``--cfg-options`` or in the file."""
    with pytest.raises(ValueError, match=f"{name} is no setting, and would change nothing; {meant} is meant"):
        cli.check_config(load_config(str(DETECTOR), {f"{name}.optimizer.lr": 0.1}))


def test_no_variable_of_a_shipped_or_stock_config_is_taken_for_a_misspelt_setting():
    files = [path for package in PACKAGES for path in config_root(package).rglob("*.py")]
    names = {name for path in files for name in re.findall(r"^(\w+)\s*=", path.read_text(), re.MULTILINE)}
    assert len(names) > 100
    kept = {"filename", "text", "env_variables"}  # words that Config keeps for itself
    check_names(Config(dict.fromkeys(names - kept)))
