"""``python -m sterf_plugins run TOOL``: the tools that mmdet and mmseg are installed with, on configs of ours."""

import json
import time
from pathlib import Path

import pytest
import torch

from sterf_plugins.checkpoints import read_checkpoint
from sterf_plugins.cli.stock_tools import find_tool, stock_tools

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
ROOT = Path(__file__).resolve().parents[2]
DETECTOR, SEGMENTOR = (
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
)


def test_tools_by_name():
    assert {"browse_dataset", "confusion_matrix", "get_flops", "benchmark", "analyze_logs"} <= set(stock_tools("mmdet"))
    assert stock_tools("nowhere") == {}
    assert "misc/browse_dataset" in stock_tools("mmseg")  # mmseg has two of this name
    assert find_tool("eval_metric", None, []).parts[-4:] == (".mim", "tools", "analysis_tools", "eval_metric.py")


def test_where_both_have_a_tool_the_config_decides():
    assert "mmseg" in find_tool("get_flops", None, ["--shape", "64", SEGMENTOR]).parts
    assert "mmdet" in find_tool("get_flops", None, [DETECTOR]).parts
    assert "mmdet" in find_tool("get_flops", "mmdet", [SEGMENTOR]).parts
    with pytest.raises(ValueError, match="mmdet and mmseg both have a tool 'analyze_logs'; add --library"):
        find_tool("analyze_logs", None, ["log.json"])
    with pytest.raises(ValueError, match="have no tool 'get_flop'; near: get_flops"):
        find_tool("get_flop", None, [])


@pytest.fixture(scope="module")
def run(forked, tmp_path_factory):
    """``run(*arguments, cwd)``: ``python -m sterf_plugins run ARGUMENTS``."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text("import sys\nfrom sterf_plugins.__main__ import main\nsys.exit(main())\n")
    return lambda *arguments, cwd, check=True: done(forked(program, "run", *arguments, cwd=cwd), check)


def done(result, check=True):
    assert not check or result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def tested(forked, trained, tmp_path_factory):
    """A function from a task to its config, checkpoint, predictions, and the work dir of ``tools/test.py``."""
    folders: dict[str, tuple] = {}

    def test(task: str):
        if task not in folders:
            folder, (config, checkpoint) = tmp_path_factory.mktemp("tested"), trained(task)
            out = folder / {"det": "predictions.pkl", "seg": "predictions"}[task]
            options = ["--work-dir", folder / "work", "--out", out, "--show-dir", "shown"]
            if task == "seg":  # several metrics: one of them writes the maps
                metrics = "dict(type='IoUMetric'),dict(type='IoUMetric',iou_metrics=['mDice'],prefix='dice')"
                options += ["--cfg-options", f"test_evaluator=[{metrics}]"]
            done(forked(ROOT / "tools" / "test.py", config, checkpoint, *options, cwd=folder))
            folders[task] = config, checkpoint, out, folder / "work"
        return folders[task]

    return test


@pytest.mark.slow
@pytest.mark.parametrize("task", ["det", "seg"])
def test_pictures_go_under_the_work_dir(tested, task):
    """``--show-dir`` of ``tools/test.py``, whose help says so."""
    *_, out, work = tested(task)
    assert task == "det" or len(list(out.glob("*.png"))) == 6
    assert len([p for p in work.rglob("shown/**/*") if p.suffix in (".jpg", ".png")]) == 6
    assert not (work.parent / "shown").exists()


# Tool and arguments, with {config}, {checkpoint}, {predictions} and {log}; what it must write or print.
RUNS = {
    "det: counts operations": ("get_flops {config} --num-images 1", "Params: "),
    "seg: counts operations": ("get_flops {config} --shape 64 64", "Params: "),
    "det: draws the data": ("browse_dataset {config} --output-dir out --not-show", "out/000000000001.jpg"),
    "seg: draws the data": ("browse_dataset {config} --output-dir out --not-show", "out/ADE_train_00000001.jpg"),
    "det: confusion": ("confusion_matrix {config} {predictions} out", "out/confusion_matrix.png"),
    "seg: confusion": (
        "confusion_matrix {config} {predictions} out --cfg-options test_dataloader.dataset.type=LoveDADataset "
        "test_dataloader.dataset.metainfo=None test_dataloader.dataset.img_suffix=.jpg",
        "out/confusion_matrix.png",
    ),
    "det: best and worst": ("analyze_results {config} {predictions} out --topk 1", "out/good"),
    "det: metric of a file": ("eval_metric {config} {predictions}", "coco/segm_mAP_50"),
    "det: speed": ("benchmark {config} --checkpoint {checkpoint} --max-iter 3 --num-warmup 1 --task inference", "fps"),
    "det: speed of the data": ("benchmark {config} --task dataset --max-iter 3 --num-warmup 1", "fps"),
    "seg: speed": ("benchmark {config} {checkpoint} --repeat-times 1", "Average fps of 1 evaluations"),
    "det: curves": (
        "analyze_logs --library mmdet plot_curve {log} --keys loss --style ggplot --out out.png",
        "out.png",
    ),
    "seg: curves": ("analyze_logs --library mmseg {log} --keys loss --out out.png", "out.png"),
    "det: times": ("analyze_logs --library mmdet cal_train_time {log}", "average iter time"),
}
NEEDS = {"det: speed": "psutil", "det: speed of the data": "psutil", "seg: curves": "seaborn"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_stock_tool(run, tested, tmp_path, name):
    pytest.importorskip(NEEDS.get(name, "mmdet"))
    if name == "det: speed" and not torch.cuda.is_available():
        pytest.skip("mmdet's benchmark of a model runs on a GPU only")
    command, expected = RUNS[name]
    config, checkpoint, predictions, _ = tested(name.partition(":")[0])
    log = next(config.parent.glob("2*/vis_data/scalars.json"))
    assert json.loads(log.read_text().splitlines()[0])
    names = dict(config=config, checkpoint=checkpoint, predictions=predictions, log=log)
    result = run(*(word.format(**names) for word in command.split()), cwd=tmp_path)
    assert expected in result.stdout + result.stderr or (tmp_path / expected).exists()


@pytest.mark.slow
@pytest.mark.parametrize("task, library", [("det", "mmdet"), ("seg", "mmseg")])
def test_a_checkpoint_is_published(run, tested, tmp_path, task, library):
    """These tools call ``torch.load``, which by itself refuses mmengine's checkpoints since PyTorch 2.6."""
    _, checkpoint, *_ = tested(task)
    run("publish_model", "--library", library, checkpoint, "published.pth", cwd=tmp_path)
    deadline = time.monotonic() + 60  # the tool renames its file by a process `mv` for which it does not wait
    while (tmp_path / "published.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    (published,) = (read_checkpoint(path) for path in tmp_path.glob("published-*.pth"))
    torch.testing.assert_close(published["state_dict"], read_checkpoint(checkpoint)["state_dict"], rtol=0, atol=0)
    assert "optimizer" not in published


@pytest.mark.slow
def test_mistakes_and_configs_by_package(run, tmp_path):
    assert "SegLocalVisualizer" in run("print_config", SEGMENTOR, cwd=tmp_path).stdout
    result = run("get_flops", "sterf_plugins::shapes/none.py", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("sterf run get_flops: error: sterf_plugins has no config 'shapes/none.py'; near: ")
    assert "usage: " in run("get_flops", "--library", "mmdet", "--help", cwd=tmp_path).stdout  # the tool's own help
    assert "--corruptions" in run("test_robustness", "--help", cwd=tmp_path).stdout  # it imports another tool
    listing = run(cwd=tmp_path).stdout
    assert "mmdet analysis_tools: analyze_logs" in listing and "mmseg misc: misc/browse_dataset" in listing
