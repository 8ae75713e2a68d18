"""The table of stock configs that run with a backbone."""

import json
import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "check_backbone.py"
FCN = "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL), run_name="tool")


def test_families_are_the_folders_of_the_installed_packages(tool):
    found = tool["families"]()
    folders = [
        folder.name
        for package in ("mmdet", "mmseg")
        for folder in sorted(tool["config_root"](package).iterdir())
        if folder.name != "_base_" and any(folder.glob("*.py"))
    ]
    assert [configs[0].split("::")[1].split("/")[0] for configs in found] == folders
    assert len(folders) > 140
    firsts = [configs[0] for configs in found]
    assert "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-769x769.py" in firsts
    assert "mmdet::detr/detr_r18_8xb2-500e_coco.py" in firsts
    assert "mmdet::yolox/yolox_nano_8xb8-300e_coco.py" in firsts
    assert "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py" in firsts


def test_the_first_config_that_runs_stands_for_its_family(tool):
    table = tool["Table"](None, False, False)
    statuses = {"a1": "failed", "a2": "ok", "b1": "ok", "c1": "failed", "c2": "refused"}
    table.results = {config: {"stock": dict(status=status)} for config, status in statuses.items()}

    class Options:
        retry = False

    found = [["a1", "a2"], ["b1"], ["c1", "c2"]]
    table.configs = tool["choose"](table, found, Options)
    assert table.configs == ["a2", "b1", "c1"]
    table.results["a2"]["new"], table.results["b1"]["new"] = dict(status="ok"), dict(status="timeout")
    assert table.summary("stock") == "stock: 2 ok, 1 failed"
    assert table.summary("new") == "new: 1 ok, 1 timeout; 1 of 2 whose stock config runs"
    assert table.lacking("new") == ["b1"]


def test_results_of_another_interface_are_not_gone_on_with(tool, tmp_path):
    tool["Table"](tmp_path / "table", False, False, "stock").write()
    assert tool["Table"](tmp_path / "table", True, False, "stock").results == {}
    with pytest.raises(ValueError, match="has the results of --interface stock, and --interface is exact"):
        tool["Table"](tmp_path / "table", True, False, "exact")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(ValueError, match=r"table\.json has no results of this tool"):
        tool["Table"](tmp_path / "table", True, False, "stock")


def test_a_family_is_tried_with_several_sizes(tool, tmp_path):
    names = ["x_r50-d8", "x_r50-d16_long", "x_r18-d8", "x_r18-d8_long", "x_r101-d8"]
    for name in names:
        (tmp_path / f"{name}.py").touch()
    chosen = [path.stem for path in tool["candidates"](tmp_path)]
    assert chosen == ["x_r18-d8", "x_r50-d8", "x_r101-d8", "x_r18-d8_long"]


@pytest.mark.slow
def test_a_table_is_written_and_gone_on_with(forked, tmp_path):
    out = tmp_path / "table.md"
    command = [TOOL, "resnet18", "sdtv3_nano_srb", "--configs", "mmseg::fcn/fcn_r18-d8_*-512x1024.py", "--out", out]
    result = forked(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"[1/3] {FCN} stock: ok " in result.stdout
    assert "sdtv3_nano_srb: 1 ok; 1 of 1 whose stock config runs" in result.stdout
    row = json.loads(out.with_suffix(".json").read_text())["results"][FCN]
    assert {name: entry["status"] for name, entry in row.items()} == dict.fromkeys(
        ["stock", "resnet18", "sdtv3_nano_srb"], "ok"
    )
    assert f"| {FCN} | ok | ok | ok |" in out.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.json", "table.md"]

    again = forked(*command)
    assert again.returncode == 2
    assert "exists; give another name, or --overwrite" in again.stderr
    resumed = forked(*command, "--resume")
    assert resumed.returncode == 0
    assert "[1/" not in resumed.stdout

    results = json.loads(out.with_suffix(".json").read_text())
    results["results"][FCN]["resnet18"] = dict(status="failed", reason="loss: of another version", seconds=1.0)
    out.with_suffix(".json").write_text(json.dumps(results))
    assert forked(*command, "--resume").returncode == 1
    assert forked(*command, "--resume", "--retry").returncode == 0


@pytest.mark.slow
def test_a_process_is_ended_after_its_time(tool, tmp_path):
    class Options:
        jobs, limit, interface = 2, 0.01, "auto"

    results = list(tool["run_all"]([(FCN, "stock"), (FCN, "resnet18")], Options))
    assert sorted(name for _, name, _ in results) == ["resnet18", "stock"]
    assert {result["status"] for _, _, result in results} == {"timeout"}


def test_what_cannot_be_read_or_built_is_a_row(tool):
    class Options:
        jobs, limit, interface = 1, 100, "auto"

    jobs = [("mmseg::fcn/none.py", "stock"), ("mmdet::common/ms_3x_coco.py", "stock")]
    (_, _, missing), (_, _, empty) = tool["run_all"](jobs, Options)
    assert missing["status"] == "failed"
    assert missing["reason"].startswith("ValueError: mmseg has no config 'fcn/none.py'")
    assert empty["status"] == "skipped"
    assert empty["reason"] == "no model.backbone in the config"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--configs", "mmdet::nothing/*"], "no config has such a name"),
        (["no_such_model"], "no_such_model"),
        (["--resume"], "--resume needs --out FILE"),
        (["--jobs", "0"], "must be positive"),
    ],
)
def test_bad_options(forked, options, message):
    result = forked(TOOL, *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 2  # the message, and where to see more
