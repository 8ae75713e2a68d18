"""tools/erf.py: what is written, found again, replaced, and kept after an interruption."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sterf_plugins.erf import ERFResult

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "erf.py"
SMALL = ["--num", "2", "--input-size", "32", "48"]


@pytest.fixture(scope="module")
def report(run, tmp_path_factory, photos):
    """Two models with a checkpoint, the untrained baseline, real images."""
    import timm

    import sterf_plugins.timm  # noqa: F401

    out = tmp_path_factory.mktemp("report")
    torch.manual_seed(1)
    checkpoint = out / "nano.pth"
    torch.save({"state_dict": timm.create_model("sdtv3_nano_srb").state_dict()}, checkpoint)
    options = [*SMALL, "--images", photos, "--untrained", "--json", "--layers", "stages.1", "--vector", "pdf"]
    compared = ["--compare", "released=sdtv3_nano_srb_released"]
    arguments = ["trained=sdtv3_nano_srb", checkpoint, *compared, "--out", out / "erf", *options]
    return out / "erf", json.loads(run(*arguments).stdout), arguments


@pytest.mark.slow
def test_everything_is_written(report):
    out, numbers, _ = report
    labels = ["trained", "trained (untrained)", "released"]
    assert list(numbers) == labels and list(numbers["trained"]) == ["stages.1"]
    figures = ["maps", "scale", "overlay", "profiles", "radial", "spectra"]
    expected = {f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")}
    expected |= {
        "trained.npz",
        "trained-untrained.npz",
        "released.npz",
        "numbers.csv",
        "report.html",
        ".written-by-erf",
    }
    assert {p.name for p in out.iterdir()} == expected
    rows = list(csv.DictReader((out / "numbers.csv").read_text().splitlines()))
    assert [r["model"] for r in rows] == labels
    value, error = numbers["trained"]["stages.1"]["area_50"]
    assert float(rows[0]["area_50"]) == value and float(rows[0]["area_50_error"]) == error > 0
    assert ERFResult.load(out / "trained.npz").spatial["stages.1"].shape == (32, 48)
    page = (out / "report.html").read_text()
    # The released mixers are silent at random weights, and the layer is behind two of them.
    marked = {name: ERFResult.load(out / f"{name}.npz") for name in ("trained", "trained-untrained", "released")}
    assert {name: len(result.warnings) for name, result in marked.items() if result.warnings} == {"released": 1}
    assert page.count('<p class="warning">released: stages') == 1
    assert "random weights" in marked["released"].notes and "random weights" not in marked["trained"].notes
    assert page.count("<img ") == 6 and "data:image/webp;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from elsewhere


@pytest.mark.slow
def test_a_second_call_finds_the_results(run, report):
    out, numbers, arguments = report
    before = (out / "trained.npz").stat().st_mtime_ns
    again = run(*arguments, "--vector", "none")
    assert json.loads(again.stdout) == numbers and again.stderr.count("results exist in") == 3
    assert (out / "trained.npz").stat().st_mtime_ns == before
    other = [a if a != "2" else "3" for a in arguments]
    refused = run(*other, check=False)
    assert refused.returncode == 2 and "exists and was computed with other settings" in refused.stderr


def test_results_of_other_files_are_no_results_of_these(compute, tmp_path, photos, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    folder, config, array, code = (tmp_path / name for name in ("photos", "own.py", "x.npy", "own_net.py"))
    code.write_text("import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))\n")
    shutil.copytree(photos, folder)
    base = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    config.write_text(f"_base_ = {str(base)!r}\n")
    np.save(array, np.ones((2, 3, 8, 8), np.float32))
    net = "net=sterf_plugins.backbones:SpikingCNN(depth=1, in_chans=3, neuron='relu')"
    layers, images = ["--layers", "layers.0"], ["--images", folder, "--num", "2", "--input-size", "8", "8"]
    commands = {
        folder / "0.png": [net, *images, *layers],
        array: [net, "--inputs", array, *layers, "--num", "2"],
        config: [config, "--num", "1", "--input-size", "32", "32", "--layers", "backbone.stages.0"],
        code: ["own_net:net", "--num", "1", "--input-size", "8", "8", "--layers", "0"],
    }
    for changed, command in commands.items():
        command = [*command, "--out", tmp_path / "out" / changed.name]
        compute(*command)
        assert "results exist in" not in capsys.readouterr().err
        compute(*command)
        assert "results exist in" in capsys.readouterr().err
        if changed == config:
            config.write_text(config.read_text() + "model = dict(backbone=dict(mixer='conv'))\n")
        if changed == code:
            code.write_text(code.read_text().replace("2, 3", "4, 3"))
        os.utime(changed, (1, 1))
        with pytest.raises(ValueError, match="computed with other settings or files"):
            compute(*command)


def test_a_file_that_is_no_result_is_replaced_if_the_user_says_so(tmp_path):
    from sterf_plugins.cli.erf.requests import stored

    path = tmp_path / "net.npz"
    path.write_text("somebody else's")
    with pytest.raises(ValueError, match=r"it is no \.npz file\. Give another --out, or --overwrite to replace it"):
        stored(path, {}, overwrite=False)
    assert stored(path, {}, overwrite=True) is None and path.read_text() == "somebody else's"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1300, 400])
def test_the_report_in_a_browser(report, tmp_path, width):
    """Sort a column, look at errors of the console, and that nothing but the table and pictures scrolls sideways."""
    browser = next(
        (b for b in ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell") if shutil.which(b)),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium here")
    page = (report[0] / "report.html").read_text()
    script = """<script>
    const failures = []; window.onerror = m => failures.push(m);
    window.addEventListener("load", () => {
      const head = [...document.querySelectorAll("th")].find(h => h.textContent === "area_50");
      const column = () => [...head.closest("table").tBodies[0].rows].map(r => Number(r.cells[head.cellIndex].dataset.value));
      head.click(); const up = column(); head.click(); const down = column();
      const sorted = a => a.every((v, i) => i === 0 || a[i - 1] <= v);
      document.body.insertAdjacentHTML("beforeend", `<p id="verdict">${JSON.stringify({
        failures, up: sorted(up), down: sorted([...down].reverse()), mark: head.getAttribute("aria-sort"),
        pictures: [...document.images].every(i => i.naturalWidth > 0),
        wide: document.documentElement.scrollWidth > window.innerWidth })}</p>`);
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{script}", 1))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900", f"file://{tmp_path}/page.html"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    verdict = json.loads(re.search(r'<p id="verdict">(.*?)</p>', result.stdout).group(1))
    assert verdict == dict(failures=[], up=True, down=True, mark="descending", pictures=True, wide=False)
    assert "CONSOLE" not in result.stderr


# A program that is interrupted as soon as it has written the first file, while it computes the second.
INTERRUPTED = """
import os, runpy, signal, sys, threading, time
first, *sys.argv = sys.argv[1:]
def interrupt():
    while not os.path.isfile(first):
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done(run, forked, tmp_path):
    arguments = ["sdtv3_nano", "--compare", "second=sdtv3_nano_srb", "--num", "120", "--input-size", "32", "32"]
    arguments += ["--out", tmp_path, "--layers", "stages.1", "--batch-size", "2"]
    interrupted = forked("-c", INTERRUPTED, tmp_path / "sdtv3_nano.npz", TOOL, "--vector", "none", *arguments)
    assert interrupted.returncode == 130, interrupted.stderr
    assert "what is done is kept" in interrupted.stderr
    left = {p.name for p in tmp_path.iterdir()}
    assert {n for n in left if not n.startswith(".second.")} == {"sdtv3_nano.npz"}
    again = run(*arguments)
    assert "results exist in" in again.stderr and (tmp_path / "report.html").is_file()
    assert not list(tmp_path.glob(".second.*"))
    assert ERFResult.load(tmp_path / "second.npz").info["num_inputs"] == 120


def test_options_of_fields_reach_the_result(compute, tmp_path):
    size = ("--layers", "layer1", "--num", 3, "--input-size", 32, 32, "--out", tmp_path)
    options = ("--channels", 2, "--calls", "first", "--aggregate", "median", "--grid", 8, 8)
    info = compute("resnet18", *size, *options).info
    found = [info[key] for key in ("channels", "calls", "aggregate", "map_size")]
    assert found == [2, "first", "median", {"layer1": [8, 8]}]
