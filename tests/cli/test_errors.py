"""Which errors of a tool are one line for the user, and which keep their traceback."""

import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(forked, tmp_path):
    """``run(body, **environment)``: run a tool whose main function has this body."""

    def call(body: str, **environment: str) -> subprocess.CompletedProcess:
        tool = tmp_path / "tool.py"
        body = textwrap.indent(textwrap.dedent(body), "    ")
        tool.write_text(f"from sterf_plugins.cli.console import run_tool\ndef main():\n{body}\nrun_tool(main)\n")
        return forked(tool, environment=environment, cwd=tmp_path)

    return call


SETUP = "import sterf_plugins\nsterf_plugins.setup()\n"
LOADED = """
from torch.utils.data import DataLoader
class Data:
    def __len__(self): return 4
    def __getitem__(self, index): {}
next(iter(DataLoader(Data(), num_workers=1, multiprocessing_context="fork")))
"""
MISTAKES = {
    "of a check in a data loader's worker": (
        LOADED.format("from sterf_plugins.checks import positive_int; positive_int('levels', 0)"),
        "`levels` is 0; it must be an int >= 1.",
    ),
    "of a missing file in a data loader's worker": (
        LOADED.format("open('nowhere.txt')"),
        "[Errno 2] No such file or directory: 'nowhere.txt'",
    ),
    "of the tool": ("raise ValueError('--num is 0')", "--num is 0"),
    "of a check": ("from sterf_plugins.checks import positive_int\npositive_int('levels', 0)", "`levels` is 0"),
    "of the library": (
        "from sterf_plugins.backbones import SDTV3\nSDTV3(layout='diagonal')",
        "`layout` is 'diagonal'; allowed: 'raster', 'channel'",
    ),
    "of a type": (
        "from sterf_plugins.checks import positive_int\npositive_int('levels', 'x')",
        "it must be an int >= 1",
    ),
    "of a missing package": (
        "from sterf_plugins.checks import require\nrequire('nowhere', 'dev')",
        "sterf-plugins[dev]",
    ),
    "of a missing package of another library": (
        f"{SETUP}from mmengine.registry import MODELS\nMODELS.build(dict(type='mmdet.ByteTracker', motion=None))",
        "please install it by: pip install lap",
    ),
    "of a missing package of another library, in its own words": (
        f"{SETUP}from mmengine.registry import MODELS\nMODELS.build(dict(type='mmdet.Detectron2Wrapper', detector={{}}))",
        "Please install Detectron2 first",
    ),
    "of a folder without the files that another library looks for": (
        "from transformers import GenerationConfig\nGenerationConfig.from_pretrained('.')",
        "does not appear to have a file named generation_config.json",
    ),
    "of a missing file": ("open('nowhere.txt')", "No such file or directory: 'nowhere.txt'"),
    "of a name in a config": (
        "from mmengine.registry import MODELS\nMODELS.build(dict(type='Nothing'))",
        "Nothing is not in the mmengine::model registry",
    ),
    "of a setting in a config": (
        f"{SETUP}from mmengine.registry import MODELS\nMODELS.build(dict(type='sterf_plugins.SDTV3', mixr='srb'))",
        "the config's sterf_plugins.SDTV3 has no setting 'mixr'; near: mixer. It has arch, ",
    ),
    "of a setting that nothing is near": (
        f"{SETUP}from mmengine.registry import MODELS\nMODELS.build(dict(type='mmdet.FPN', qqq=1))",
        "the config's mmdet.FPN has no setting 'qqq'. It has act_cfg, add_extra_convs, ",
    ),
    "of a setting that a base config has": (
        f"{SETUP}from mmengine.registry import OPTIMIZERS\n"
        "import torch; OPTIMIZERS.build(dict(type='AdamW', params=[torch.zeros(1)], momentum=0.9))",
        "unless the dict that changes it has _delete_=True.",
    ),
    "of a setting that is missing": (
        f"{SETUP}from mmengine.registry import MODELS\nMODELS.build(dict(type='mmdet.ResNet'))",
        "the config's mmdet.ResNet lacks what it needs: 'depth'.",
    ),
    "of an option of a config": (
        "from mmengine.config import Config\nConfig(dict(a=[1])).merge_from_dict({'a.7': 1})",
        "Index 7 exceeds the length of list",
    ),
    "of classes that a data set does not have": (
        f"{SETUP}from mmseg.datasets import ADE20KDataset\nADE20KDataset(metainfo=dict(classes=('disc',)))",
        "is not a subset of classes",
    ),
    "of colours for other classes": (
        f"{SETUP}from mmseg.datasets import BaseSegDataset\n"
        "BaseSegDataset(metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0]]))",
        "palette does not match classes",
    ),
    "of one pixel for a BatchNorm": (
        "import torch\ntorch.nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))",
        "Expected more than 1 value per channel when training",
    ),
    "of weights that do not exist": (
        "import timm, sterf_plugins.timm\ntimm.create_model('sdtv3_nano', pretrained=True)",
        "No pretrained weights exist",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line(run, kind):
    body, message = MISTAKES[kind]
    done = run(body)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("tool.py: error: ") and message in done.stderr
    assert "Traceback" not in done.stderr and "STERF_TRACEBACK=1" in done.stderr
    shown = run(body, STERF_TRACEBACK="1")
    assert "Traceback" in shown.stderr and message in shown.stderr


def test_an_error_comes_last_where_both_streams_go_into_one_file(run):
    done = run("import os\nos.dup2(1, 2)\nprint('work')\nraise ValueError('--num is 0')")
    assert done.stdout.startswith("work\ntool.py: error: --num is 0\n")


FAULTS = {
    "a key that is missing in a data loader's worker": LOADED.format("dict()['stages']"),
    "a key that is missing": "{}['stages']",
    "a call that does not fit": "len(3)",
    "a call of ours that does not fit": "from sterf_plugins.checks import positive_int\npositive_int()",
    "a line of ours that fails": "from sterf_plugins.checkpoints import state_dict_of\nstate_dict_of(dict(model=dict))['a']",
    "an assertion": "assert False, 'cannot be'",
    "a ValueError of another library": "import numpy\nnumpy.ones(2).reshape(3)",
    "a raise of another library": "import fractions\nfractions.Fraction('x')",
    "a missing key of a config": "from mmengine.config import Config\nConfig(dict(a=dict()))['a']['b']",
    "a constructor that calls another with a setting of its own": (
        "from mmengine.registry import MODELS\n"
        "class Wrong:\n    def __init__(self, width): dict.fromkeys(height=width)\n"
        "MODELS.register_module(module=Wrong)\nMODELS.build(dict(type='Wrong', width=3))"
    ),
    "a constructor that lacks an argument of another": (
        "from mmengine.registry import MODELS\n"
        "class Inner:\n    def __init__(self, height): pass\n"
        "class Wrong:\n    def __init__(self, width): Inner()\n"
        "MODELS.register_module(module=Wrong)\nMODELS.build(dict(type='Wrong', width=3))"
    ),
    "something that is not implemented": "raise NotImplementedError",
    "a factory that fails inside": (
        "from sterf_plugins.cli.loading import load_model\nload_model('broken:factory(width=3)')"
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_keeps_its_traceback(run, tmp_path, kind):
    (tmp_path / "broken.py").write_text("def factory(width):\n    return len(width)\n")
    done = run(FAULTS[kind], PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert "Traceback" in done.stderr and "please report it" in done.stderr


@pytest.mark.parametrize(
    "spec, message",
    [
        ("broken:factory(height=3)", "does not take these options"),
        ("broken:factory", "cannot be built without options"),
        ("resnet18(height=3)", "does not take these options"),
    ],
)
def test_options_that_a_model_does_not_take_are_a_mistake(run, tmp_path, spec, message):
    (tmp_path / "broken.py").write_text("def factory(width):\n    return len(width)\n")
    body = f"from sterf_plugins.cli.loading import load_model\nload_model({spec!r})"
    done = run(body, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and message in done.stderr, done.stderr


@pytest.mark.parametrize("setting", ["model.backbone", "key=[(1,2)"])
def test_a_config_option_that_cannot_be_read(setting, forked, tmp_path):
    config = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    done = forked(ROOT / "tools" / "train.py", config, "--work-dir", tmp_path, "--cfg-options", setting)
    assert done.returncode == 2 and "is no KEY=VALUE, or its brackets do not match" in done.stderr
