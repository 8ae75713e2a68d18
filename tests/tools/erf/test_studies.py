"""Files of studies: those that are shipped, and what one may say."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from sterf_plugins.cli.specs import is_config, parse_spec
from sterf_plugins.erf import ERFResult

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "erf.py"


@pytest.mark.slow
def test_studies_and_fields_in_time(run, tmp_path):
    options = ["--num", "1", "--layers", "layers.2", "--out", tmp_path / "out"]
    result = run(ROOT / "configs" / "erf" / "neurons.py", *options)
    assert "LIF tau 8" in result.stdout and "mean lag" in result.stdout
    fields = ERFResult.load(tmp_path / "out" / "LIF-tau-4.npz")
    assert fields.temporal["layers.2"].shape == (16,)
    assert (tmp_path / "out" / "lags.png").is_file()


@pytest.mark.parametrize("study", ["activations", "surrogates"])
@pytest.mark.slow
def test_shipped_studies(run, study, tmp_path):
    """With one of their layers: drawing all of them is most of the time."""
    run(f"sterf_plugins::erf/{study}.py", "--num", "1", "--layers", "layers.1", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("study", sorted((ROOT / "configs" / "erf").glob("*.py")), ids=lambda path: path.stem)
def test_models_and_options_of_shipped_studies_are_there(study, monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    importlib.import_module("sterf_plugins.timm")
    monkeypatch.setattr("sterf_plugins.cli.begin.begin", lambda: None)
    tool = runpy.run_path(str(TOOL))
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(study), "--out", str(tmp_path)])
    args = tool["arguments"]()
    jobs = tool["jobs"](args)
    assert len(jobs) == len(args.models) * (1 + args.untrained) and args.layers and args.title
    names = [parse_spec(job.spec)[1] for job in jobs]
    assert all(timm.is_model(name) or is_config(name) or importable(name) for name in names), names


def importable(name):
    """Whether ``module:attribute`` is there."""
    module, _, attribute = name.partition(":")
    return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("dict(models='sdtv3_nano')", "`study` needs models=[...]"),
        ("dict(models=[('sdtv3_nano', 'a.pth', 'b.pth')])", "give a name, or a name and a checkpoint"),
        ("['sdtv3_nano']", "`study` is a list; give dict(models=[...]"),
        ("dict(models=['sdtv3_nano'], input_size=32)", "argument --input-size: expected 2 arguments"),
        (
            "dict(models=['sdtv3_nano'], position=(0.5, 0.5))",
            "unrecognized arguments: 0.5; give options what they take on the command line",
        ),
        ("dict(models=['sdtv3_nano'], reduce='mean')", "argument --reduce: invalid choice: 'mean'"),
        ("dict(models=['sdtv3_nano'], untrained='no')", "ignored explicit argument 'no'"),
        ("dict(models=['sdtv3_nano'], out='elsewhere')", "unknown keys out"),
    ],
)
def test_what_a_study_says_is_checked_as_on_the_command_line(study, message, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"study = {study}\n")
    tool = runpy.run_path(str(TOOL), run_name="tool")
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "mine.py"), "--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r"mine\.py: `study`") as error:
        tool["arguments"]()
    assert message in str(error.value)


def test_a_checkpoint_beside_a_study_is_an_error(tmp_path, monkeypatch):
    """It was ignored, and the fields were those of other weights."""
    (tmp_path / "mine.py").write_text("study: dict = dict(models=['resnet18'])\n")
    tool = runpy.run_path(str(TOOL), run_name="tool")
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "mine.py"), "a.pth", "--out", str(tmp_path)])
    with pytest.raises(
        ValueError, match=r"a\.pth: the study .*mine\.py names the checkpoints of its models; write it there"
    ):
        tool["arguments"]()


def test_a_study_may_give_one_value_where_several_are_taken(tmp_path, monkeypatch):
    """Not its letters, as where a string is taken for a list; and the command line wins."""
    (tmp_path / "mine.py").write_text(
        "study = dict(models=['resnet18', ('sdtv3_nano', 'a.pth')], layers='layer1', num=4, seed='1', temporal=False)\n"
    )
    tool = runpy.run_path(str(TOOL), run_name="tool")
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "mine.py"), "--out", str(tmp_path), "--num", "2"])
    args = tool["arguments"]()
    assert args.models == [["resnet18", None], ["sdtv3_nano", "a.pth"]]
    assert (args.layers, args.num, args.seed, args.temporal) == (["layer1"], 2, 1, False)
