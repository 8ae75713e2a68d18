"""Wrong options and files end tools/erf.py with one line, and nothing is written."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sterf_plugins.cli import console

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "erf.py"


@pytest.fixture(scope="module")
def bad(tmp_path_factory, photos):
    """Files that are wrong."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    shutil.copytree(photos, folder / "broken")
    (folder / "broken" / "0.png").write_bytes(b"no image")
    import timm

    import sterf_plugins.timm  # noqa: F401

    state = timm.create_model("sdtv3_nano").state_dict()
    torch.save(state, folder / "nano.pth")
    next(v for v in state.values() if v.is_floating_point()).fill_(float("nan"))
    torch.save(state, folder / "nan.pth")
    (folder / "text.pth").write_text("no checkpoint")
    (folder / "study.py").write_text("study = dict(models=['sdtv3_nano'], layer=['stages.*'])\n")
    (folder / "file").write_text("in the way")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sdtv3_nono"], "no timm model 'sdtv3_nono'; near: sdtv3_nano"),
        (["sdtv3_nano(levels=0)"], "`levels` is 0"),
        (["sdtv3_nano(levels=x)"], "cannot be read; give NAME"),
        (["nowhere:Model"], "cannot be imported"),
        (["mmdet::nothing.py"], "mmdet has no config 'nothing.py'"),
        (["sdtv3_nano", "--layers", "stage.*"], "'stage.*' matches no module; modules are"),
        (["sdtv3_nano", "--input-size", "8", "8"], "smaller than the network's stride of 16"),
        (["sdtv3_nano", "{bad}/nan.pth"], "hold NaN or infinite values"),
        (["sdtv3_nano", "{bad}/text.pth"], "text.pth cannot be read"),
        (["sdtv3_nano", "{bad}/none.pth"], "no checkpoint"),
        (["sdtv3_tiny", "{bad}/nano.pth"], "does not fit: .* entries are missing or of another shape"),
        (["sdtv3_nano", "--num", "0"], "--num is 0; it must be at least 1"),
        (["sdtv3_nano", "--images", "{bad}/none"], "no such folder"),
        (["sdtv3_nano", "--images", "{bad}/text.pth"], "this is a file. Give a folder of images"),
        (["sdtv3_nano", "--images", "{bad}/empty"], "no image in it; suffixes"),
        (["sdtv3_nano", "--images", "{bad}/broken"], "0.png is no readable image"),
        (["sdtv3_nano", "--images", "val"], "needs a config with a val_dataloader"),
        (["sdtv3_nano", "--out", "{bad}/file/out"], "--out .* cannot be written"),
        (["sdtv3_nano", "--position", "corner"], "--position corner: give center, all, or row,col"),
        (
            ["{bad}/nano.pth", "{bad}/nano.pth"],
            "nano.pth is a checkpoint, .* two checkpoints: sterf erf .* --model NAME",
        ),
        (
            ["sterf_plugins::shapes/fpn_sdtv3-t-srb_shapes.py", "--images", "val"],
            "ade/.* does not exist.*; link your copy there, or name its folder: in a config of your own, val_dataloader",
        ),
        (["sdtv3_nano", "--compare", "sdtv3_nono"], "no timm model 'sdtv3_nono'; near: sdtv3_nano"),
        (
            ["sdtv3_nano", "--compare", "resnet10t", "--layers", "stages.*", "layr*"],
            "'layr*' matches no module; modules are",
        ),
        (["sdtv3_nano", "--compare", "resnet10t", "--layers", "stages.*"], "'stages.*' matches no module; modules are"),
        (["sdtv3_nano", "--compare", "sdtv3_nano"], "two models are called 'sdtv3_nano'"),
        (["sdtv3_nano", "--device", "gpu"], "--device gpu cannot be used"),
        (["{bad}/study.py"], "`study` has unknown keys layer"),
        (
            ["sdtv3_nano", "--frequency", "--protocol", "replknet"],
            "--frequency needs the signed field, which --protocol luo has; leave out --protocol replknet",
        ),
        (["sdtv3_nano", "--wrt", "1"], "--wrt is about --inputs; give their shapes"),
        (["sdtv3_nano", "--inputs", "a=3x8x8", "3x8x8"], "--inputs: give each a name of its own, or none a name"),
        (["sdtv3_nano", "--inputs", "3x8x8", "--axes", "HWC"], "--input-size is for models of one image"),
        (["torch.nn:Identity", "--pretrained"], "--pretrained is for timm's models, and torch.nn:Identity is none"),
        (["sdtv3_nano", "--check-cells", "4"], "--check-cells is about --check; give that, too"),
        (["sdtv3_nano", "--check-budget", "4"], "--check-budget is about --check; give that, too"),
        (
            ["sdtv3_nano", "--check", "blur"],
            "--check blur: give occlusion, other, a number above 0, flip, or randomisation",
        ),
        (["sdtv3_nano", "--check", "occlusion", "--check-cells", "33"], "--check-cells 33: give 1 to 32"),
        (["sdtv3_nano", "--check", "0.1", "--check-budget", "0"], "--check-budget 0: 1 x 1 patches need at least 1"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, bad, photos, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where no data set is
    arguments = [a.format(bad=bad, photos=photos) for a in arguments]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    size = [] if "--input-size" in arguments else ["--input-size", "32", "32"]
    num = [] if "--num" in arguments else ["--num", "2"]
    tool = runpy.run_path(str(TOOL), run_name="tool")
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, [*arguments, *out, *size, *num])])
    with pytest.raises(SystemExit) as exit_:
        console.run_tool(tool["main"])
    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert re.search(message if "*'" not in message else re.escape(message), errors), errors
    assert "Traceback" not in errors
    assert re.search(r"^erf\.py: error: ", errors, re.MULTILINE)  # not behind a progress bar
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
