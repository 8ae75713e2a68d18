"""tools/erf.py with two checkpoints, and as a check in continuous integration."""

import csv
from pathlib import Path

import pytest
import torch

from sterf_plugins.cli.erf.comparison import compared_models
from sterf_plugins.erf import ERFResult

TOOL = Path(__file__).resolve().parents[3] / "tools" / "erf.py"
MODEL = "sdtv3_nano"
OPTIONS = ["--num", "4", "--input-size", "32", "32", "--layers", "stages.0"]


@pytest.fixture(scope="module")
def run(forked):
    return lambda *arguments: forked(TOOL, "--vector", "none", *arguments)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A network, and the same with a smaller middle of its first kernels, both as files called ``last.pth``."""
    import timm

    import sterf_plugins.timm  # noqa: F401

    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = timm.create_model(MODEL)
    files = [folder / name / "last.pth" for name in ("before", "after")]
    for file in files:
        file.parent.mkdir()
        torch.save({"state_dict": model.state_dict()}, file)
        kernel = next(p for p in model.parameters() if p.ndim == 4 and p.shape[-1] > 1)
        with torch.no_grad():
            kernel[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] *= 0.2
    return files


@pytest.fixture(scope="module")
def compared(run, checkpoints, tmp_path_factory):
    """What the tool prints of both, and the folder that it has written."""
    folder = tmp_path_factory.mktemp("compared")
    done = run(*checkpoints, "--model", MODEL, "--out", folder, *OPTIONS, "--fail-if", "area_90>1000%")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, folder


@pytest.mark.slow
def test_two_checkpoints_in_one_line(run, checkpoints, compared):
    stdout, folder = compared
    assert "a: before-last, b: after-last" in stdout and "95 % interval" in stdout
    results = [ERFResult.load(folder / f"{name}-last.npz") for name in ("before", "after")]
    rows = {r["number"]: r for r in csv.DictReader((folder / "difference.csv").read_text().splitlines())}
    a, b = (float(r.numbers("stages.0")["area_90"].value) for r in results)
    assert float(rows["area_90"]["change"]) == pytest.approx(b - a) and rows["area_90"]["paired"] == "True"
    assert float(rows["area_90"]["low"]) < b - a < float(rows["area_90"]["high"])
    page = (folder / "report.html").read_text()
    section = page[page.index('<section id="difference">') : page.index("<figure")]
    assert ">before-last</th>" in section and ">area_90</td>" in section
    # Again, from the files, with a rule that holds and one that does not.
    share = 100 * abs(b - a) / a
    rules = ["--fail-if", f"area_90>{2 * share:g}%", f"area_90>{share / 2:g}%"]
    failed = run(*checkpoints, "--model", MODEL, "--out", folder, *OPTIONS, *rules)
    assert failed.returncode == 1 and failed.stderr.count("results exist in") == 2
    assert "the field has changed:\nstages.0: area_90 was" in failed.stderr
    assert failed.stderr.count("allowed: ") == 1 and f"allowed: area_90>{share / 2:g}%" in failed.stderr


@pytest.mark.slow
def test_against_a_baseline(run, checkpoints, compared, tmp_path):
    before, after = checkpoints
    baseline = compared[1] / "before-last.npz"
    against = ["--against", baseline, "--fail-if", "area_90>1%", "r50>3se"]
    same = run(f"m={MODEL}", before, "--out", tmp_path / "same", *OPTIONS, *against)
    assert same.returncode == 0 and "a: baseline, b: m" in same.stdout, same.stderr[-2000:]
    assert "is of other inputs" not in same.stderr
    other = run(f"m={MODEL}", after, "--out", tmp_path / "other", *OPTIONS, "--seed", "1", *against)
    assert "before-last.npz is of other inputs (--seed 0 instead of 1)" in other.stderr
    assert other.returncode == 1 and "allowed: area_90>1%" in other.stderr, other.stderr[-2000:]
    smaller = run(f"m={MODEL}", before, "--out", tmp_path / "smaller", *OPTIONS, *against, "--input-size", "64", "48")
    assert smaller.returncode == 2 and not list((tmp_path / "smaller").glob("*.npz"))
    assert "is of images of 32x32, and these have 64x48; give --input-size 32 32" in smaller.stderr
    unknown = run(f"m={MODEL}", before, "--out", tmp_path / "unknown", *OPTIONS, *against, "area_9>1%")
    assert unknown.returncode == 2 and not list((tmp_path / "unknown").glob("*.npz"))
    assert "the rule area_9>1% is about none of" in unknown.stderr
    itself = run(f"before-last={MODEL}", before, "--out", baseline.parent, *OPTIONS, *against)
    assert itself.returncode == 2
    assert "before-last.npz is the file that this run writes; give another --out" in itself.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fail-if", "area_90>5%"], "--fail-if needs two results"),
        (["--against", __file__], "is no ERF result: it is no .npz file"),
        (["--against", "missing.npz"], "missing.npz"),
        (["--against", "missing.npz", "--fail-if", "area_90 changes by 5%"], "is no rule; give [LAYER:]NUMBER>AMOUNT"),
        (["--against", "missing.npz", "--compare", "sdtv3_nano_srb"], "--against compares one model"),
    ],
)
def test_mistakes_end_before_anything_is_computed(run, tmp_path, options, message):
    done = run(MODEL, "--out", tmp_path, *OPTIONS, *options)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.glob("*.npz"))


def test_checkpoints_are_called_by_what_tells_them_apart():
    assert compared_models("name", "a.pth", None) == [["name", "a.pth"]]
    assert compared_models("a.pth", None, "name") == [["name", "a.pth"]]
    assert compared_models("x/a.pth", "x/b.pth", "name") == [["a=name", "x/a.pth"], ["b=name", "x/b.pth"]]
    assert compared_models("x/1/e.pth", "x/2/e.pth", "name(T=2)")[1] == ["2-e=name(T=2)", "x/2/e.pth"]
    with pytest.raises(ValueError, match="the two checkpoints are one"):
        compared_models("a.pth", "./a.pth", "name")
    assert compared_models("a.pth", None, "net=name") == [["net=name", "a.pth"]]
    with pytest.raises(ValueError, match="two checkpoints are called by their files; leave out the label 'net'"):
        compared_models("a.pth", "b.pth", "net=name(T=2)")
