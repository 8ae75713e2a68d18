"""tools/erf.py: what is written, found again, replaced, and kept after an interruption."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
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
    options = [*SMALL, "--images", photos, "--untrained", "--json", "--layers", "stages.0", "stages.1"]
    options += ["--vector", "pdf"]
    compared = ["--compare", "released=sdtv3_nano_srb_released"]
    arguments = ["trained=sdtv3_nano_srb", checkpoint, *compared, "--out", out / "erf", *options]
    return out / "erf", json.loads(run(*arguments).stdout), arguments


@pytest.mark.slow
def test_everything_is_written(report):
    out, numbers, _ = report
    labels = ["trained", "trained (untrained)", "released"]
    assert list(numbers) == labels and list(numbers["trained"]) == ["stages.0", "stages.1"]
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
    assert [r["model"] for r in rows] == [label for label in labels for _ in range(2)]
    value, error = numbers["trained"]["stages.1"]["area_50"]
    assert float(rows[1]["area_50"]) == value and float(rows[1]["area_50_error"]) == error > 0
    assert ERFResult.load(out / "trained.npz").spatial["stages.1"].shape == (32, 48)
    page = (out / "report.html").read_text()
    # The released mixers are silent at random weights, and both layers are behind one of them.
    marked = {name: ERFResult.load(out / f"{name}.npz") for name in ("trained", "trained-untrained", "released")}
    assert {name: len(result.warnings) for name, result in marked.items() if result.warnings} == {"released": 2}
    assert page.count('<p class="warning">released: stages') == 2
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


@pytest.mark.slow
def test_results_of_other_files_are_no_results_of_these(run, tmp_path, photos):
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
        array: [net, "--inputs", array, *layers],
        config: [config, "--num", "1", "--input-size", "32", "32", "--layers", "backbone.stages.0"],
        code: ["own_net:net", "--num", "1", "--input-size", "8", "8", "--layers", "0"],
    }
    for changed, command in commands.items():
        command = [*command, "--out", tmp_path / "out" / changed.name]
        run(*command, PYTHONPATH=tmp_path)
        assert "results exist in" in run(*command, PYTHONPATH=tmp_path).stderr
        if changed == config:
            config.write_text(config.read_text() + "model = dict(backbone=dict(mixer='conv'))\n")
        if changed == code:
            code.write_text(code.read_text().replace("2, 3", "4, 3"))
        os.utime(changed, (1, 1))
        refused = run(*command, check=False, PYTHONPATH=tmp_path)
        assert refused.returncode == 2 and "computed with other settings or files" in refused.stderr


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


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done(run, tmp_path):
    arguments = ["sdtv3_nano", "--compare", "second=sdtv3_nano_srb", "--num", "250", "--input-size", "32", "32"]
    arguments += ["--out", str(tmp_path), "--layers", "stages.1", "--batch-size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.time() + 200
    while not (tmp_path / "sdtv3_nano.npz").is_file() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)  # the second model takes a second
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "what is done is kept" in errors
    left = {p.name for p in tmp_path.iterdir()}
    assert {n for n in left if not n.startswith(".second.")} == {"sdtv3_nano.npz"}
    again = run(*arguments)
    assert "results exist in" in again.stderr and (tmp_path / "report.html").is_file()
    assert not list(tmp_path.glob(".second.*"))
    assert ERFResult.load(tmp_path / "second.npz").info["num_inputs"] == 250
