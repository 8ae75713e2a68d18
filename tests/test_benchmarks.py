"""Benchmarks that users may run again, with everything small."""

import contextlib
import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def module(name):
    """A module of the benchmarks."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


gpu = module("gpu")
TRAININGS = ("layouts", "mixers")  # they start tools
ELSEWHERE = ("energy", "generalisation", *TRAININGS)  # the first two have tests of their own, with what they measure


def correct(results):
    for ways in results["correctness"].values():
        for name, way in ways.items():
            if name.startswith("float64"):
                assert max(error for mode in way.values() for error in mode.values()) < 1e-9


def same_spikes(results):
    """All libraries' neurons are the same one, where the sides say so; ours is what the ratios are to."""
    rows = [row for name, row in results.items() if name.startswith(("linear", "convolution"))]
    assert len(rows) == 2
    for row in rows:
        assert {"no neuron", "ours", "SpikingJelly", "SpikingJelly, plain PyTorch", "norse", "snnTorch"} == set(row)
        assert row["ours"]["time_over_ours"] == 1
        assert row["ours"]["memory_over_ours"] in (1, None)  # None: all of it fits into memory that the process had
        assert all(side.get("other_spikes", 0) == 0 for side in row.values())


def same_gradients(results):
    sides = results["models"]["spikformer_8_384"]
    assert len(sides) == 5 and max(side.get("gradients_differ_by", 0) for side in sides.values()) < 1e-9


def tracked(results):
    for part in ("images", "aedat4", "forward", "step", "variants", "loader"):
        assert all(value > 0 for key, value in results[part].items() if key in ("ratio", "frames_per_second"))
    assert {name for name, rate in results["loader"]["pairs_per_second"].items() if rate > 0} == {"png", "events"}
    assert max(results["forward"]["differences"].values()) < 1e-4


CHECKS = dict(correctness=correct, neurons=same_spikes, memopt=same_gradients, tracking=tracked)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in gpu.PARTS if name not in ELSEWHERE])
def test_each_part(name, forked, tmp_path):
    """It runs on a CPU, nothing in it fails, and what its file has is not measured again."""
    args = Namespace(device="cpu", out=tmp_path, tiny=True)
    command = gpu.command(name, args)
    done = forked(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / f"{name}.json"
    results = json.loads(out.read_text())
    assert results["tiny"] and results["device"] == "cpu" and gpu.messages(results) == {}
    CHECKS.get(name, lambda results: None)(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name, forked, monkeypatch, tmp_path):
    """Data, training and test run, by the real tools, which are forked here; the results have scores and fields."""
    benchmark = module(name)

    def tool(program, *arguments):
        done = forked(BENCHMARKS.parent / "tools" / program, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]

    monkeypatch.setattr(benchmark, "tool", tool)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", gpu.command(name, Namespace(device="cpu", out=tmp_path, tiny=True)))
    benchmark.main()
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert gpu.messages(results) == {}
    if name == "layouts":
        run = results["srb channel"]["seed 0"]
        assert run["seconds"] > 0 and run["erf_before"].keys() == run["erf_after"].keys()
        assert 0 <= run["test at 64"]["box_ap50"]["all"] <= 1
    else:
        run = results["3x3 convolutions"]["seed 0"]
        assert 0 <= run["box_ap"] <= 1 and len(run["hidden_rates"]) == 4


def test_float16_is_scaled():
    """Gradients that fp16 cannot hold come out right, and the loss is scaled less where they would be too large."""
    correctness = module("correctness")
    torch.manual_seed(0)
    for factor in (1e-3, 50.0):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        x = factor * torch.randn(4, 8)
        exact = correctness.outputs_and_gradients(model, x)
        half = correctness.outputs_and_gradients(model, x, torch.float16)
        found = correctness.difference(half, exact)
        assert 0 < max(found.values()) < 2e-2


def test_what_is_too_small():
    """A step that takes no memory that is seen has no ratio, where a division would end the whole comparison."""
    timing = module("timing")
    sides = {name: dict(seconds=s, peak_mib=m) for name, s, m in (("base", 2.0, 0.0), ("other", 3.0, 1.0))}
    timing.ratios(sides, "base")
    assert [(side["time"], side["memory"]) for side in sides.values()] == [(1.0, None), (1.5, None)]
    assert timing.peak_mib(lambda: None) >= 0


@pytest.mark.parametrize("setting", ["layout", "images", "repeats", "spikingjelly", "anything that a benchmark names"])
def test_figures_of_other_settings_do_not_share_a_file(tmp_path, capsys, setting):
    """They would be taken for those of the new ones, since the rows have the same names."""
    saved = module("saved")
    saved.Results(tmp_path / "out.json", {setting: (1, 2), "date": "2026-01-01"}).save(dict(seconds=1), "row")
    assert saved.Results(tmp_path / "out.json", {setting: (1, 2), "date": "2026-01-02"}).has("row")
    with pytest.raises(SystemExit):
        saved.Results(tmp_path / "out.json", {setting: (1, 3)})
    assert f"holds results with {setting}=[1, 2], and this is [1, 3]" in capsys.readouterr().err
    with pytest.raises(ValueError, match="as a setting is"):
        saved.Results(tmp_path / "out.json", {setting: (1, 2)}).once(dict, setting)


@pytest.mark.parametrize(
    "option", ["--reference-inputs", "--loop-inputs", "--spikformer-inputs", "--spikformer", "--models"]
)
def test_options_of_the_receptive_fields_do_not_share_a_file(tmp_path, monkeypatch, option):
    """A part of three models and four inputs would be kept for one of other models and inputs."""
    erf, saved = module("erf"), module("saved")
    values = {"--spikformer": ["1", "64", "2"], "--models": ["resnet50"]}.get(option, ["3"])
    monkeypatch.setattr(saved.Results, "once", lambda self, function, *keys: self.save({}, *keys))
    out = str(tmp_path / "erf.json")
    for extra, code in (([], None), ([], None), ([option, *values], 2)):
        monkeypatch.setattr(sys, "argv", ["erf.py", "--out", out, *extra])
        with pytest.raises(SystemExit) if code else contextlib.nullcontext() as ended:
            erf.main()
        assert code is None or ended.value.code == code


# A benchmark of one line, which has `values` and `save`.
SCRIPT = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
values = json.loads(out.read_text()) if out.is_file() else {}
def save(name, **value):
    values[name] = value
    out.write_text(json.dumps(values))
"""
LINES = dict(
    crashes="sys.exit('no such GPU')",
    partly="save('one', seconds=1); save('two', error='RuntimeError: wrong')",
    broken="save(f'entry {len(values)}', seconds=1); sys.exit(3 if len(values) < 3 else 0)",
    slow="'one' in values or (save('one', seconds=1), time.sleep(60)); save('two', seconds=2)",
    stuck="time.sleep(60)",
    last="save('retried' if '--retry' in sys.argv else 'one', seconds=1)",
)


@pytest.mark.slow
def test_pieces(monkeypatch, tmp_path, capsys):
    """Parts that fail stop no other, an interrupted one goes on where it was, and one that saves nothing is given up."""
    for name, line in LINES.items():
        (tmp_path / f"{name}.py").write_text(SCRIPT + line)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "PARTS", {name: gpu.Part(name) for name in LINES})
    monkeypatch.setattr(gpu, "SPARE", 0)
    out = tmp_path / "out"

    def piece(*options):
        monkeypatch.setattr(
            sys, "argv", ["gpu.py", "--out", str(out), "--device", "cpu", "--minutes", "0.06", *options]
        )
        return gpu.main(), {k: v["state"] for k, v in json.loads((out / "gpu.json").read_text()).items()}

    code, states = piece()
    assert code == 1 and states == dict(crashes="failed", partly="failed", broken="done", slow="interrupted")
    state = json.loads((out / "gpu.json").read_text())
    assert state["crashes"]["error"] == "exit code 1: no such GPU"
    assert state["partly"]["errors"] == {"two": "RuntimeError: wrong"}
    assert len(json.loads((out / "broken.json").read_text())) == 3
    assert "left: slow, stuck, last" in capsys.readouterr().out
    while (found := piece())[0]:
        pass
    code, states = found
    assert states["slow"] == states["last"] == "done" and states["stuck"] == states["crashes"] == "failed"
    assert json.loads((out / "slow.json").read_text()) == dict(one=dict(seconds=1), two=dict(seconds=2))
    assert "no entry was saved" in json.loads((out / "gpu.json").read_text())["stuck"]["error"]
    assert piece("--parts", "crashes")[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("memopt", ["--repeats", "0"], "--repeats 0; both must be at least 1"),
        ("memopt", ["--threads", "-1"], "--threads is -1 and --repeats 5; both must be at least 1"),
        ("energy", ["--table"], "--out is None; give the file of figures that are to be shown"),
        ("energy", ["--table", "--out", "none.json"], "--out is none.json; give the file of figures"),
        ("generalisation", ["--figure", "a.png", "--out", "none.json"], "--out is none.json; give the file of figures"),
    ],
)
def test_options_that_cannot_be_used(name, options, message, monkeypatch, capsys, tmp_path):
    """One line and exit code 2, before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    with pytest.raises(SystemExit) as ended:
        module(name).main()
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "neurons"])
def test_a_gpu_that_is_not_there(name, monkeypatch, capsys, tmp_path):
    """Each entry would be recorded as a failure, which the next run keeps."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        module(name).main()
    assert ended.value.code == 2 and "PyTorch finds no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
