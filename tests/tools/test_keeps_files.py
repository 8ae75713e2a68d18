"""No tool deletes or replaces a file that it did not make, unless it is told to."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sterf_plugins.files import (
    check_claim,
    check_made,
    check_new,
    claim,
    empty_folder,
    replacing,
    replacing_folder,
    settings_in,
)

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
MINE = "a file of the user"


def load(name: str):
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_check_new(tmp_path):
    (tmp_path / "empty").mkdir()
    check_new(tmp_path / "empty", overwrite=False)
    check_new(tmp_path / "none", overwrite=False)
    (tmp_path / "empty" / "file").write_text(MINE)
    for taken in (tmp_path / "empty", tmp_path / "empty" / "file"):
        with pytest.raises(ValueError, match="exists; give another name, or --overwrite"):
            check_new(taken, overwrite=False)
        check_new(taken, overwrite=True)


def test_claim(tmp_path):
    check_claim(tmp_path / "new", "tool", ["report.html"])
    assert not (tmp_path / "new").exists()
    claim(tmp_path / "new", "tool")
    (tmp_path / "new" / "report.html").write_text("ours")
    check_claim(tmp_path / "new", "tool", ["report.html"])
    with pytest.raises(ValueError, match=r"report\.html, which other did not write there"):
        check_claim(tmp_path / "new", "other", ["report.html"])
    check_claim(tmp_path / "new", "other", ["report.html"], overwrite=True)
    check_claim(tmp_path / "new", "other", ["another.html"])


def test_empty_folder(tmp_path):
    folder = tmp_path / "made"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "1.jpg").write_text("ours")
    (folder / "inner" / "mine.pth").write_text(MINE)
    with pytest.raises(ValueError, match=r"holds files that were not made here \(1\), such as inner/mine\.pth"):
        empty_folder(folder, ["inner/[0-9]*.jpg"])
    assert (folder / "inner" / "1.jpg").is_file()
    (folder / "inner" / "mine.pth").unlink()
    (folder / "inner" / ".2.0123abcd.partial.jpg").write_text("of a run that was killed")
    (tmp_path / "link").symlink_to(folder)
    empty_folder(tmp_path / "link", ["inner/[0-9]*.jpg"])
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_file_that_two_processes_write(tmp_path):
    """Each has a temporary file of its own, and the last one's is there in the end."""
    path = tmp_path / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_goes_a_day_later(tmp_path):
    """A process that is killed cannot delete its temporary file; that of one which still writes, or of another file, stays."""
    path = tmp_path / "drive [1].h5"
    code = f"import os, signal; from sterf_plugins.files import replacing\nwith replacing({str(path)!r}) as partial:\n"
    code += "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    old, new = sorted(tmp_path.iterdir())
    others = [tmp_path / ".drive 1.01234567.partial.h5", tmp_path / ".drive [1].01234567.partial.npz"]
    for other in others:
        other.write_text(MINE)
    for file in (old, *others):
        os.utime(file, (0, 0))
    with replacing(path) as partial:
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, *others]) and path.read_text() == "whole"


def test_what_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "blob").write_text("old")
    (tmp_path / "model.pth").symlink_to(tmp_path / "disk" / "blob")
    with replacing(tmp_path / "model.pth") as partial:
        assert partial.suffix == ".pth"
        partial.write_text("new")
    assert (tmp_path / "model.pth").is_symlink() and (tmp_path / "disk" / "blob").read_text() == "new"
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    with replacing_folder(tmp_path / "images", ["blob"]) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "1.png").write_text("ours")
    assert (tmp_path / "images").is_symlink() and [p.name for p in (tmp_path / "disk").iterdir()] == ["inner"]
    for path, kind in ((tmp_path, "a folder"), (os.devnull, "a device")):
        with pytest.raises(ValueError, match=f"{path} is {kind}; give the name of a file"), replacing(path):
            pass


def test_a_folder_that_two_processes_make(tmp_path):
    """The second one says so and changes nothing; what was there stays until the new one is whole."""
    made, half = tmp_path / "made", tmp_path / ".made.partial"
    for folder in (made, half):
        folder.mkdir()
        (folder / "old.png").write_text("of an earlier run")
    with pytest.raises(RuntimeError), replacing_folder(made, ["*.png"]):
        raise RuntimeError("the recording is damaged")
    assert (made / "old.png").is_file() and not half.exists()
    with replacing_folder(made, ["*.png"]) as first:
        (first / "1.png").write_text("ours")
        with pytest.raises(ValueError, match="just being made by another process"), replacing_folder(made, ["*.png"]):
            pass
        (first / "2.png").write_text("ours")
    assert sorted(p.name for p in made.iterdir()) == ["1.png", "2.png"] and list(tmp_path.iterdir()) == [made]
    (made / "mine.txt").write_text(MINE)
    with pytest.raises(ValueError, match=r"such as mine\.txt"), replacing_folder(made, ["*.png"]):
        pass
    with (
        pytest.raises(ValueError, match=r"mine\.txt is a file; give the name of a folder"),
        replacing_folder(made / "mine.txt", ["*"]),
    ):
        pass
    with pytest.raises(ValueError, match=r"mine\.txt is a file; give the name of a folder"):
        check_claim(made / "mine.txt", "tool", ["report.html"])
    assert len(list(made.iterdir())) == 3


@pytest.mark.parametrize(
    ("tool", "files", "others"),
    [
        (
            "make_tracking",
            (
                "test/disc01/events.aedat4",
                "train/square102/vis_imgs/frame0001.png",
                "test/disc01/inter1_stack_3008/gtp.json",
            ),
            ("mine.aedat4", "train/mine/events.aedat4", "train/mine/groundtruth.txt", "train/disc01/notes.txt"),
        ),
        (
            "make_event_detection",
            (
                "train/shapes000_td.h5",
                "test/shapes001_bbox.npy",
                "event_cache/shapes000_td-0123456789ab.h5",
                "train.txt",
            ),
            ("mine/shapes.txt", "event_cache/mine.h5", "annotations/mine.json", "train/shapes.txt"),
        ),
    ],
)
def test_recordings_of_the_user_in_a_data_set_are_not_deleted(tmp_path, tool, files, others):
    made = load(f"dataset_tools/{tool}").MADE
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("ours")
    check_made(tmp_path, made)
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(MINE)
        with pytest.raises(ValueError, match=rf"not made here \(1\), such as {name}"):
            check_made(tmp_path, made)
        (tmp_path / name).unlink()


def test_videos_of_other_velocities_have_other_folders(tmp_path):
    make_events = load("dataset_tools/make_events")
    assert [make_events.in_name(value) for value in (0.2, 1, 0.125, 0.124)] == ["0.20", "1.00", "0.125", "0.124"]
    (tmp_path / "events.json").write_text("no JSON")
    assert settings_in(tmp_path / "events.json") is None and settings_in(tmp_path / "none.json") is None
    assert settings_in(tmp_path / "events.json" / "of a file.json") is None


@pytest.mark.parametrize("settings", [None, "{}"])
def test_the_demo_keeps_folders_that_are_not_of_its_training(tmp_path, settings, monkeypatch):
    demo = load("demo")
    monkeypatch.setattr(demo.Steps, "run", lambda *command: pytest.fail("nothing shall be started"))
    folder = tmp_path / demo.DETECTOR.name
    folder.mkdir()
    (folder / "epoch_4.pth").write_text(MINE)
    if settings:
        (folder / "settings.json").write_text(settings)
    with pytest.raises(ValueError, match="is not of this training with these settings; move it away"):
        demo.train(demo.DETECTOR, tmp_path)
    assert (folder / "epoch_4.pth").read_text() == MINE


def refused(forked, tool, *arguments) -> str:
    done = forked(TOOLS / tool, *arguments)
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_data_sets_of_others_are_not_deleted(forked, tmp_path, flags):
    for tool, options in (("make_shapes.py", ("--num-train", 1, "--num-val", 1)), ("make_events.py", ("--videos", 1))):
        out = tmp_path / tool
        out.mkdir()
        (out / "mine.txt").write_text(MINE)
        refused(forked, f"dataset_tools/{tool}", out, *options, *flags)
        assert (out / "mine.txt").read_text() == MINE


@pytest.mark.slow
def test_files_that_were_put_into_a_data_set_are_not_deleted(forked, tmp_path):
    shapes = (TOOLS / "dataset_tools" / "make_shapes.py", tmp_path / "shapes", "--num-train", 1, "--num-val", 1)
    events = (TOOLS / "dataset_tools" / "make_events.py", tmp_path / "events", "--videos", 1, "--resolution", 16, 16)
    for command, other in ((shapes, ("--size", 64)), (events, ("--frames", 4))):
        done = forked(*command, *(("--frames", 3) if command is events else ()))
        assert done.returncode == 0, done.stderr
        (command[1] / "weights.pth").write_text(MINE)
        before = sorted(command[1].rglob("*"))
        assert "such as weights.pth" in refused(
            forked, command[0].relative_to(TOOLS), *command[1:], *other, "--overwrite"
        )
        assert sorted(command[1].rglob("*")) == before
        (command[1] / "weights.pth").unlink()
        done = forked(*command, *other, "--overwrite")
        assert done.returncode == 0, done.stderr


def test_a_folder_called_partial_is_not_deleted(forked, tmp_path):
    (tmp_path / ".shapes.partial").mkdir()
    (tmp_path / ".shapes.partial" / "mine.txt").write_text(MINE)
    refused(forked, "dataset_tools/make_shapes.py", tmp_path / "shapes", "--num-train", 1, "--num-val", 1)
    assert (tmp_path / ".shapes.partial" / "mine.txt").read_text() == MINE


@pytest.mark.slow
def test_results_do_not_replace_files(forked, tmp_path):
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save(dict(a=torch.ones(1)), checkpoint)
    for name in (
        "report.html",
        "numbers.csv",
        "sdtv3_nano.pt2",
        "results.json",
        "table.csv",
        "picture.png",
        "maps.png",
    ):
        (tmp_path / name).write_text(MINE)
    (tmp_path / "predictions.pkl").write_text(MINE)
    commands = [
        ("erf.py", "sdtv3_nano", "--out", tmp_path),
        ("analysis_tools/get_sops.py", "sdtv3_nano", "--csv", tmp_path / "table.csv"),
        ("analysis_tools/show_covariance.py", tmp_path / "picture.png"),
        ("model_converters/deploy.py", "sdtv3_nano", "--out", tmp_path),
        ("model_converters/convert.py", checkpoint, tmp_path / "table.csv"),
        ("covariant_tracking.py", "--work-dir", tmp_path, "--data", tmp_path),
        ("test.py", "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", checkpoint, "--out", tmp_path / "predictions.pkl",
         "--work-dir", tmp_path / "work"),
        ("test.py", SEGMENTOR, checkpoint, "--out", tmp_path, "--work-dir", tmp_path / "work"),
    ]  # fmt: skip
    for command in commands:
        assert "--overwrite" in refused(forked, *command), command
    done = forked(TOOLS / "demo.py", "--out", tmp_path)
    assert done.returncode == 1 and "report.html, which demo did not write there" in done.stderr
    texts = {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file() and p != checkpoint and p.name[0] != "."}
    assert set(texts.values()) == {MINE} and len(texts) == 8
    done = forked(TOOLS / "analysis_tools" / "show_covariance.py", tmp_path / "picture.png", "--overwrite")
    assert done.returncode == 0 and (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_training_keeps_the_checkpoints_of_another_one(forked, shapes, tmp_path):
    (tmp_path / "iter_7.pth").write_text(MINE)
    options = [f"{phase}_dataloader.dataset.data_root={shapes}/ade" for phase in ("train", "val", "test")]
    command = (SEGMENTOR, "--work-dir", tmp_path, "--cfg-options", *options)
    message = refused(forked, "train.py", *command)
    assert "has checkpoints of a training" in message and "give --resume to go on with it" in message
    assert (tmp_path / "iter_7.pth").read_text() == MINE


def test_training_does_not_replace_its_own_config(forked, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {os.fspath(SEGMENTOR)!r}\n")
    text = config.read_text()
    assert "is the config's own folder" in refused(forked, "train.py", config, "--work-dir", tmp_path)
    assert config.read_text() == text
    Config.fromfile(config).dump(config)
    text = "# mine\n" + config.read_text()
    config.write_text(text)
    assert "is the config's own folder" in refused(forked, "train.py", config, "--work-dir", tmp_path)
    assert config.read_text() == text


@pytest.mark.slow
def test_an_environment_is_not_made_in_a_folder_with_files(forked, tmp_path):
    (tmp_path / "constraints.txt").write_text(MINE)
    assert "is no virtual environment" in refused(forked, "make_environment.py", tmp_path)
    assert (tmp_path / "constraints.txt").read_text() == MINE
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == '["constraints.txt"]'
