"""Discovery, conflicts, failures and a real third-party package."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from argparse import Namespace
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import sterf_plugins
from sterf_plugins import plugins
from sterf_plugins.cli import doctor
from sterf_plugins.cli.loading import Loaded
from sterf_plugins.cli.new_plugin import write_plugin

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path in which tests put distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.rescan()
    yield tmp_path
    plugins.rescan()


def add_distribution(site: Path, name: str, entry_points: str, version: str = "1.0", code: str = "") -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
    if code:
        (site / f"{name}.py").write_text(textwrap.dedent(code))
    plugins.rescan()


def test_our_own_parts_come_through_the_entry_points():
    assert set(plugins.discover("mixers")) >= {"conv", "mlpixer", "srb"}
    assert all(p[0].own for name, p in plugins.discover("mixers").items() if name in ("conv", "mlpixer", "srb"))
    assert list(plugins.discover("neurons")) == sorted(plugins.discover("neurons"))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown mixer 'srbb'; known: conv, mlpixer, srb"):
        plugins.get("mixers", "srbb")


def test_two_distributions_with_one_name_are_refused(site):
    for dist in ("alpha", "beta"):
        add_distribution(site, dist, "[sterf_plugins.mixers]\nsame = x:Y")
    with pytest.raises(plugins.PluginError, match=r"alpha==1.0 and beta==1.0"):
        plugins.get("mixers", "same")


def test_a_broken_plugin_warns_when_listed_and_fails_when_asked_for(site, caplog):
    add_distribution(site, "broken", "[sterf_plugins.mixers]\nbroken = broken:Mixer", code="import no_such_module")
    errors = plugins.load_all("mixers")
    assert len(errors) == 1
    assert "broken==1.0" in caplog.text
    assert "No module named 'no_such_module'" in caplog.text
    with pytest.raises(plugins.PluginError, match="no_such_module"):
        plugins.resolve("mixers", "broken")
    assert plugins.resolve("mixers", "srb")  # the others still work


def test_environment_switches(monkeypatch):
    monkeypatch.setenv("STERF_PLUGINS_DISABLE", "srb,neurons:lif")
    assert "srb" not in plugins.discover("mixers")
    assert "lif" not in plugins.discover("neurons")
    with pytest.raises(plugins.PluginError, match="switched off by STERF_PLUGINS"):
        plugins.get("mixers", "srb")
    monkeypatch.setenv("STERF_PLUGINS_DISABLE", "")
    monkeypatch.setenv("STERF_PLUGINS", "mixers:conv")
    assert list(plugins.discover("mixers")) == ["conv"]


def test_resolve_offers_options_that_the_factory_takes():
    def narrow(dim, ratio, *, levels):
        return torch.nn.Conv2d(dim, dim * levels, 1)

    assert plugins.resolve("mixers", narrow, levels=3, layout="raster", drop=0.1)(2, 4).out_channels == 6
    # what the dict says wins over what the caller offers
    assert plugins.resolve("mixers", dict(type=narrow, levels=5), levels=3)(2, 4).out_channels == 10


@pytest.mark.parametrize("spec", [3, None, ["srb"], torch.nn.Identity()])
def test_a_spec_of_another_type_is_refused(spec):
    with pytest.raises(TypeError, match="give a name, a dict with `type`, or a class or function that builds it"):
        plugins.resolve("mixers", spec)


def test_a_dict_without_type_is_refused():
    with pytest.raises(ValueError, match="a dict needs a `type`"):
        plugins.resolve("mixers", dict(ratio=4))


@pytest.fixture
def command(forked):
    """``command(*arguments)``: ``python -m sterf_plugins ARGUMENTS``."""
    return lambda *arguments, **options: forked("-m", "sterf_plugins", *arguments, **options)


@pytest.mark.slow
def test_list_command_shows_broken_plugins(command, site):
    add_distribution(site, "broken", "[sterf_plugins.mixers]\nbroken = broken:Mixer", code="import no_such_module")
    result = command("list", environment=dict(PYTHONPATH=site))
    assert result.returncode == 1
    assert "broken==1.0" in result.stdout
    assert "no_such_module" in result.stdout
    assert "srb" in result.stdout


@pytest.mark.slow
def test_info_command(command):
    result = command("info", "sdtv3_tiny_srb")
    assert result.returncode == 0
    assert "4,802,504" in result.stdout and "channel MLP" in result.stdout
    result = command("info", "sdtv3_tiny_srb_released")
    assert "4,801,096" in result.stdout and "never fire" in result.stdout
    assert "not\n  resolution-consistent" in result.stdout
    mixer = command("info", "mlpixer").stdout
    assert "raster-consecutive" in mixer and "TokenMixer: " in mixer and "dim: channels." in mixer
    assert "metadata" not in mixer  # of a base class that describes no argument
    unknown = command("info", "nothing")
    assert unknown.returncode == 2
    assert "no plugin, timm model or type of configs 'nothing'" in unknown.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sterf_plugins.ERFHook", "ERFHook"])
def test_info_of_a_type_of_configs(command, name):
    result = command("info", name)
    assert result.returncode == 0 and not result.stderr
    assert result.stdout.startswith(
        "type 'sterf_plugins.ERFHook' of configs: sterf_plugins.openmmlab.hooks.erf.ERFHook\n"
    )
    assert "interval: compute at every ``interval``-th validation" in result.stdout
    unknown = command("info", name.replace("Hook", "Hok"))
    assert unknown.returncode == 2 and "near: ERFHook" in unknown.stderr


@pytest.mark.slow
def test_doctor_command(command):
    result = command("doctor")
    assert result.returncode == 0, result.stdout
    assert "everything is in order" in result.stdout
    assert (
        "mmcv ops: compiled" in result.stdout
        or "none for Python 3." in result.stdout
        or "there is one" in result.stdout
    )


def test_doctor_knows_which_compiled_mmcv_exists_and_what_each_extra_is_for():
    assert doctor.compiled_mmcv("3.12", "2.10", "cpu").endswith("-f https://mmwheels.onedl.ai/cpu-torch2100/simple/")
    assert "cu128-torch280/simple/" in doctor.compiled_mmcv("3.12", "2.8", "cu128")
    for none in (("3.11", "2.8", "cpu"), ("3.12", "2.11", "cu130"), ("3.12", "2.9", "cu128")):
        assert doctor.compiled_mmcv(*none).startswith(
            f"none for Python {none[0]}, torch {none[1]}, {none[2]}; compiling"
        )


# Packages that are imported by another name than they are installed by.
IMPORTED_AS = {
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "onedl-mmdetection": "mmdet",
    "onedl-mmsegmentation": "mmseg",
    "onedl-mmpretrain": "mmpretrain",
    "grad-cam": "pytorch_grad_cam",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}


def test_doctor_says_what_every_package_of_every_extra_is_for():
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = {
        extra: [re.split("[<>=!~ ;]", line)[0] for line in lines.split()]
        for extra, lines in settings["options.extras_require"].items()
        if extra != "dev"
    }
    modules = {extra: {IMPORTED_AS.get(n, n.replace("-", "_")) for n in names} for extra, names in extras.items()}
    assert {extra: set(costs) for extra, costs in doctor.COSTS.items()} == modules


def test_configs_command(command):
    result = command("configs")
    assert "sterf_plugins::mask_rcnn/mask-rcnn_sdtv3-t-srb_fpn_1x_coco.py" in result.stdout.splitlines()


@pytest.fixture(scope="module")
def third_party(tmp_path_factory) -> Path:
    """A real package as ``sterf new-plugin`` writes it, built and installed by pip into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    write_plugin("third-party", source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    (target / "tests").symlink_to(source / "tests")
    return target


def test_a_new_plugin_is_written_with_its_names_and_nothing_is_lost(command, tmp_path):
    result = command("new-plugin", "My-Net", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "My-Net"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files >= {"src/my_net/mixers.py", "src/my_net/stems.py", "pyproject.toml", ".github/workflows/test.yml"}
    text = "".join(p.read_text() for p in folder.rglob("*") if p.is_file())
    assert "class MyNetMixer" in text and 'my_net_stem = "my_net.stems:MyNetStem"' in text and 'name = "my-net"' in text
    assert 'pip install "sterf-plugins @ git+REPOSITORY"' in text  # as long as it is on no index
    assert not any(word in text for word in ("my_plugin", "my-plugin", "MyMixer", "MyStem", "my_mixer"))
    again = command("new-plugin", "My-Net", cwd=tmp_path)
    assert again.returncode == 2 and "holds files, which are left alone" in again.stderr
    for name, message in (("2nets", "letters, digits and hyphens"), ("sterf_plugins", "is taken"), ("../x", "letters")):
        result = command("new-plugin", name, cwd=tmp_path)
        assert result.returncode == 2 and message in result.stderr, result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["My-Net"]


@pytest.mark.slow
def test_every_tool_is_a_command(command):
    """``sterf NAME`` runs ``tools/NAME.py``; the list has a sentence for each."""
    text = " ".join(command("--help").stdout.split())
    named = (
        "train",
        "test",
        "erf",
        "infer",
        "track",
        "convert",
        "card",
        "bench",
        "doctor",
        "list",
        "info",
        "new-plugin",
    )
    for name in named:
        assert f" {name} " in text
    models = ("resnet10t", "resnet10t(in_chans=2)")
    result = command("bench", *models, "--size", "32", "32", "--batch", "2", "--train", "--repeats", "1", "--json")
    figures = json.loads(result.stdout.splitlines()[-1])["models"]["resnet10t"]
    assert figures["ratio"] == 1 and figures["seconds"] > 0
    assert figures["parameters"] == sum(p.numel() for p in timm.create_model("resnet10t").parameters())
    wrong = command("bench", "resnet10t", "--batch", "0")
    assert wrong.returncode == 2 and wrong.stderr.startswith("sterf bench: error: --batch is 0")
    twice = command("bench", "resnet10t", "resnet10t")
    assert twice.returncode == 2 and "error: resnet10t is given twice" in twice.stderr


def test_a_config_is_measured_by_its_backbone():
    tool = runpy.run_path(str(ROOT / "tools/analysis_tools/bench.py"), run_name="tool")
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Conv2d(2, 1, 3), head=torch.nn.Linear(1, 1)))
    kinds = [SimpleNamespace(model=SimpleNamespace(type=kind)) for kind in ("EncoderDecoder", "sterf_plugins.SDTrack")]
    segmentor, tracker = (Loaded("mine", model, (8, 8), (0.0, 0.0), (1.0, 1.0), config=kind) for kind in kinds)
    args = Namespace(device="cpu", batch=3, train=True, channels_last=False)
    measured, images = tool["prepared"](segmentor, args, (4, 5))
    assert measured is model.backbone and images.shape == (3, 2, 4, 5)
    with pytest.raises(ValueError, match="mine takes a template and a search region"):
        tool["prepared"](tracker, args, (4, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sterf: error: the following arguments are required: COMMAND; `sterf --help` tells"),
        (["trian"], "sterf: error: there is no command 'trian'; near: train"),
        (["doctor", "--foo"], "sterf: error: unrecognized arguments: --foo; `sterf --help` tells"),
        (["info"], "sterf info: error: the following arguments are required: name; `sterf info --help` tells"),
        (
            ["info", "sdtv3_tiny_sr"],
            "sterf info: error: no plugin, timm model or type of configs 'sdtv3_tiny_sr'; near: sdtv3_tiny_srb, ",
        ),
        (["new-plugin", "timm"], "sterf new-plugin: error: NAME is 'timm', which is an installed package"),
        (
            ["new-plugin", "scikit-image"],
            "sterf new-plugin: error: NAME is 'scikit-image', which is an installed package",
        ),
        (
            ["erf", "resnet18"],
            "sterf erf: error: the following arguments are required: --out; `sterf erf --help` tells",
        ),
        (
            ["make-shapes", "x", "--num-train", "a"],
            "sterf make-shapes: error: argument --num-train: invalid int value: 'a'",
        ),
        (["run", "get_flop"], "sterf run get_flop: error: mmdet and mmseg have no tool 'get_flop'; near: get_flops"),
    ],
)
@pytest.mark.slow
def test_a_wrong_command_ends_in_a_line_that_says_what_is_meant(command, tmp_path, arguments, message):
    """Without the list of all options, and with the words that the user typed."""
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.startswith(message), result.stderr
    assert len(result.stderr.splitlines()) <= 2  # the second names STERF_TRACEBACK
    assert not list(tmp_path.iterdir())


def test_the_version_is_told(command):
    assert command("--version").stdout == f"sterf-plugins {sterf_plugins.__version__}\n"


@pytest.mark.parametrize("name, folder", [("train", "tools"), ("configs", "configs")])
def test_a_package_without_the_folder_of_its_tools_is_told_in_one_line(command, tmp_path, name, folder):
    """As in a checkout that has not been installed."""
    shutil.copytree(ROOT / "sterf_plugins", tmp_path / "sterf_plugins", ignore=shutil.ignore_patterns(".mim"))
    result = command(name, fresh=True, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"sterf: error: {tmp_path}/sterf_plugins/.mim/{folder} is missing")


@pytest.mark.slow
def test_a_new_plugin_is_listed_and_passes_its_own_tests(command, forked, third_party):
    environment = dict(PYTHONPATH=third_party)
    listed = command("list", environment=environment, fresh=True).stdout
    assert listed.count("third-party==0.1.0") == 2 and "third_party_mixer" in listed
    result = forked("-m", "pytest", "-q", "-p", "no:cacheprovider", third_party / "tests", environment=environment)
    assert "3 passed" in result.stdout, result.stdout + result.stderr


@pytest.mark.slow
def test_a_new_plugin_trains_by_name_from_a_config(forked, third_party, shapes, tmp_path):
    train = [ROOT / "tools" / "train.py", ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"]
    train += ["--work-dir", tmp_path]
    train += [
        "--cfg-options",
        "model.backbone.mixer=third_party_mixer",
        "train_cfg.max_epochs=1",
        "default_hooks.erf=None",
    ]
    train += [f"{loader}_dataloader.dataset.data_root={shapes}/" for loader in ("train", "val", "test")]
    train += [f"{e}_evaluator.ann_file={shapes}/annotations/instances_val2017.json" for e in ("val", "test")]
    result = forked(*train, environment=dict(PYTHONPATH=third_party), cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=False)["state_dict"]
    assert any("mixer.branch.1.weight" in key for key in state)
    assert json.loads((next(tmp_path.glob("*/vis_data/scalars.json"))).read_text().splitlines()[-1])


def test_a_plugin_that_takes_one_of_our_names_is_left_out(site, caplog):
    add_distribution(site, "thief", "[sterf_plugins.mixers]\nsrb = thief:Mixer", code="class Mixer: pass")
    assert plugins.get("mixers", "srb").own and plugins.get("mixers", "srb").own
    assert caplog.text.count("the mixers plugin 'srb' of thief==1.0 is left out: sterf-plugins==") == 1
    assert plugins.load_all("mixers") == []


@pytest.mark.slow
def test_a_plugin_that_takes_the_name_of_one_of_our_timm_models(site):
    code = """
import sys
from timm.models import register_model
sys.modules[__name__].__all__ = []
@register_model
def sdtv3_nano(pretrained=False, **kwargs):
    raise AssertionError("not ours")
"""
    add_distribution(site, "thief", "[sterf_plugins.models]\nzzz = thief\nzoo = thief", code=code)
    check = "import timm, sterf_plugins.timm as ours; print(timm.model_entrypoint('sdtv3_nano').__module__)"
    check += "; print(timm.is_model('spikformer_8_384'))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["sterf_plugins.timm.sterf_sdt_v3", "True"], result.stderr
    assert "'zoo' of thief==1.0 is left out" in result.stderr


@pytest.mark.parametrize("name", ["covrf_resnet18", "covrf_sdtv3_tiny_srb"])
def test_info_of_models_with_a_covariant_stem(command, name):
    result = command("info", name)
    assert result.returncode == 0, result.stderr
    assert f"timm model {name!r}" in result.stdout and "parameters: " in result.stdout


@pytest.mark.parametrize("options", [3, "min_size"])
def test_options_that_are_no_dict(options):
    """As ``filter_cfg=3`` in a config: Python's own words, that an int is not iterable, do not say where."""
    with pytest.raises(TypeError, match=rf"`filter_cfg` is {options!r} \(\w+\); it must be a dict of options"):
        plugins.check_options("`filter_cfg`", options, ("min_size",))
