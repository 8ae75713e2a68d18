"""What tools print: nothing of other libraries that a user can do nothing about, a banner, and what a mistake in it is."""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sterf_plugins.cli.begin import WARNINGS, _Quiet

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tools" / "train.py"
SEGMENTOR = "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"
INFO, COLOURED = "11/28 21:25:03 - mmengine - INFO - ", "11/28 21:25:03 - mmengine - \x1b[4m\x1b[37mINFO\x1b[0m - "


@pytest.mark.parametrize(
    "prints, shown",
    [
        (["Could not import OneDL. Skipping OneDL datasets.", "\n", "epoch 1", "\n"], "epoch 1\n"),
        (["Done (t=0.00s)", "\n", "Done (t=0.00s) with my data", "\n"], "Done (t=0.00s) with my data\n"),
        ([f"{INFO}Config:\na = 1\n", f"{COLOURED}\n---\nSystem environment:\n", f"{INFO}Config: mine\n"], f"{INFO}Config: mine\n"),
        (["I: Could not import OneDL", "\n", "\n"], "I: Could not import OneDL\n\n"),
    ],
)  # fmt: skip
def test_what_is_named_is_left_out_and_nothing_else(prints, shown):
    stream = io.StringIO()
    quiet = _Quiet(stream)
    assert all(quiet.write(text) == len(text) for text in prints)
    assert stream.getvalue() == shown and not quiet.isatty()


def test_a_box_that_reaches_beyond_the_image_is_drawn_without_a_warning():
    """mmengine warns of each, in the middle of the progress bar of ``sterf infer``."""
    visualization = pytest.importorskip("mmengine.visualization")
    picture = visualization.Visualizer(image=np.zeros((16, 16, 3), np.uint8))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        picture.draw_bboxes(torch.tensor([[-4.0, 2.0, 8.0, 8.0]]))
        assert "The bbox is out of bounds" in str(shown[0].message)
        before = len(shown)
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        picture.draw_bboxes(torch.tensor([[-4.0, 2.0, 8.0, 8.0]]))
    assert len(shown) == before


@pytest.mark.slow
def test_a_training_begins_with_a_banner_and_its_log_file_has_the_whole_set_up(forked, shapes, tmp_path):
    """A stock config on another backbone, in a process that imports everything itself."""
    settings = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in ("train", "val")]
    settings += [f"{p}_dataloader.dataset.type=BaseSegDataset" for p in ("train", "val")]
    settings += [f"{p}_dataloader.dataset.reduce_zero_label=True" for p in ("train", "val")]
    settings += [
        f"{p}_dataloader.dataset.metainfo=dict(classes=('background','disc','square','triangle','twin_a','twin_b'))"
        for p in ("train", "val")
    ]
    settings += ["model.decode_head.num_classes=6", "train_dataloader.batch_size=2", "train_dataloader.num_workers=0"]
    settings += ["train_dataloader.persistent_workers=False", "val_dataloader.persistent_workers=False"]
    settings += [
        "val_dataloader.num_workers=0",
        "train_cfg.max_iters=1",
        "val_dataloader.dataset.pipeline.1.scale=(64,64)",
    ]
    settings += [f"train_dataloader.dataset.pipeline.{i}.{k}=(64,64)" for i, k in ((2, "scale"), (3, "crop_size"))]
    settings += ["model.data_preprocessor.size=(64,64)", "optim_wrapper.paramwise_cfg.norm_decay_mult=0"]
    command = [TRAIN, SEGMENTOR, "--backbone", "sdtv3_nano_srb", "--work-dir", tmp_path, "--cfg-options", *settings]
    done = forked(*command, fresh=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    banner = re.compile(
        r"training of 1 iteration\n"
        r"  model      EncoderDecoder, \d\.\d\d M parameters; backbone sdtv3_nano_srb, \d\.\d\d M\n"
        r"  train data 12 samples of BaseSegDataset in \S+/ade, 2 at a time\n"
        r"  val data   6 samples of BaseSegDataset in \S+/ade, 1 at a time\n"
        r"  device     cpu, .*, float32; torch \S+\n"
        r"  adapted    --backbone sdtv3_nano_srb, exact: channels .*\n"
        r"             --backbone sdtv3_nano_srb: of the stock backbone no longer hold: its weights .*\n"
        r"             no GPU: \d+ SyncBN settings of the model become BN\n"
        r"  spikes     \d+ layers with D=4\n"
        r"  log file   \S+\.log, which has the whole set-up\n"
    )
    assert banner.search(done.stdout), done.stdout
    assert re.search(r"iteration 1: .*spike layers", done.stdout)
    assert len(done.stdout.splitlines()) < 30 and "paramwise" not in done.stdout
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert banner.search(log) and log.count("paramwise_options -- ") > 10
    assert all(part in log for part in ("System environment:", "Config:\n", "Hooks will be executed"))


@pytest.mark.parametrize("place", ["time.sleep(5)", "exec('try: time.sleep(5)\\nexcept BaseException: time.sleep(5)')"])
def test_ctrl_c_during_the_imports_is_one_line(forked, place):
    code = f"from sterf_plugins.cli.begin import begin\nbegin()\nimport os, time\nos.kill(os.getpid(), 2)\n{place}"
    done = forked("-c", code)
    assert (done.returncode, done.stderr) == (130, "\n-c: interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' PyTorch brings another OpenMP")
@pytest.mark.parametrize(
    "environment, spins",
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_threads_of_a_tool_sleep_soon_unless_the_user_says_otherwise(environment, spins):
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "from sterf_plugins.cli.begin import begin; begin(); import ctypes; ctypes.CDLL(PATH)"
    gomp = next(Path(torch.__file__).with_name("lib").glob("libgomp*"))
    done = subprocess.run(
        [sys.executable, "-c", code.replace("PATH", repr(str(gomp)))],
        env={**own, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)[1] == spins


@pytest.mark.parametrize(
    "command", [[TRAIN], ["-m", "sterf_plugins", "infer"], ["-m", "sterf_plugins", "check-backbone"]]
)
def test_an_installation_without_openmmlab_is_told_in_one_line(command, tmp_path):
    """An interpreter with all that is installed here but OpenMMLab."""
    site = tmp_path / "site"
    site.mkdir()
    for path in map(Path, {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}):
        for package in path.iterdir():
            if not package.name.startswith(("mm", "onedl", "__pycache__")) and package.suffix != ".pth":
                (site / package.name).symlink_to(package)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    command = [sys.executable, "-S", *map(str, command), "x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "needs the package 'mmengine': pip install \"sterf-plugins[openmmlab]\"" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "erf", "get-sops", "make-shapes"])
def test_completion_knows_the_options_of_a_tool_without_running_it(tool, forked):
    from argparse import ArgumentParser

    from sterf_plugins.cli.completion import add_options
    from sterf_plugins.cli.own_tools import own_tools

    path = own_tools()[tool]
    parser = ArgumentParser(add_help=False)
    add_options(parser, path)
    real = set(re.findall(r"(?<=[\s\[])--[\w-]+", forked(path, "--help").stdout.partition("\n\n")[0]))
    hidden = {"--local-rank", "--local_rank", "--help"}
    found = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert len(real) > 3 and found - hidden == real - hidden


def test_the_shell_gets_commands_and_options(forked, tmp_path):
    pytest.importorskip("argcomplete")
    answers = {}
    for line in ("sterf tr", "sterf train --am", "sterf run --library mm"):
        out = tmp_path / "answer"
        variables = dict(_ARGCOMPLETE=1, _ARGCOMPLETE_IFS="\n", COMP_LINE=line, COMP_POINT=len(line))
        forked("-m", "sterf_plugins", environment=variables | {"_ARGCOMPLETE_STDOUT_FILENAME": out})
        answers[line] = sorted(word.strip() for word in out.read_text().split("\n"))
    assert answers == {
        "sterf tr": ["track", "train"],
        "sterf train --am": ["--amp"],
        "sterf run --library mm": ["mmdet", "mmseg"],
    }


COMPLETED = {
    "bash": """eval "$(register-python-argcomplete sterf)"
        COMP_LINE='sterf train --am' COMP_POINT=16 COMP_TYPE=9
        _python_argcomplete sterf --am train && echo "${COMPREPLY[@]}" """,
    "fish": "register-python-argcomplete --shell fish sterf | source; complete -C 'sterf train --am'",
}


@pytest.mark.parametrize("shell", COMPLETED)
def test_a_shell_completes(shell):
    folder = sysconfig.get_path("scripts")
    for program in (shell, f"{folder}/sterf", f"{folder}/register-python-argcomplete"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    environment = os.environ | dict(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run([shell, "-c", COMPLETED[shell]], env=environment, capture_output=True, text=True)
    assert done.stdout.split()[0] == "--amp", done.stderr
