"""tools/erf.py as users run it: models of all kinds, comparisons, reports, resuming, and what goes wrong."""

import csv
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sterf_plugins.cli import console
from sterf_plugins.cli.erf.inputs import entries, given_inputs
from sterf_plugins.cli.loading import Loaded
from sterf_plugins.erf import ERFResult, FieldCheck, compute_erf
from sterf_plugins.erf.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "erf.py"
SMALL = ["--num", "2", "--input-size", "32", "48"]


@pytest.fixture(scope="module")
def run(forked):
    def run_tool(*arguments, check=True, cwd=None, **environment):
        # a second format of all figures is half of the tool's time
        result = forked(TOOL, "--vector", "none", *arguments, cwd=cwd, environment=environment)
        assert not check or result.returncode == 0, result.stderr[-2000:]
        return result

    return run_tool


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60 + i, 90, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


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
def test_studies_and_fields_in_time(run, tmp_path):
    result = run(ROOT / "configs" / "erf" / "neurons.py", "--num", "1", "--out", tmp_path / "out", "--vector", "svg")
    assert "LIF tau 8" in result.stdout and "mean lag" in result.stdout
    fields = ERFResult.load(tmp_path / "out" / "LIF-tau-4.npz")
    assert fields.temporal["layers.2"].shape == (16,)
    assert (tmp_path / "out" / "lags.svg").is_file()


@pytest.mark.parametrize("study", ["activations", "surrogates"])
@pytest.mark.slow
def test_shipped_studies(run, study, tmp_path):
    run(f"sterf_plugins::erf/{study}.py", "--num", "1", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_configs_of_mmseg_and_mmdet(run, shapes, tmp_path):
    config = tmp_path / "own.py"
    base = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    data = f"dict(dataset=dict(data_root={str(shapes) + '/ade'!r}))"
    config.write_text(f"_base_ = {str(base)!r}\nval_dataloader = {data}\n")
    result = run(config, "--images", "val", *SMALL, "--layers", "backbone.stages.*", "neck", "--out", tmp_path / "a")
    assert "neck[3]" in result.stdout
    result = run(
        "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", *SMALL, "--out", tmp_path / "b", "--input-size", 64, 64
    )
    assert "backbone[3] (stage 3, stride 32)" in result.stdout


def test_theoretical_fields_run_the_model_as_the_effective_ones_do(monkeypatch, tmp_path):
    """Beyond the neck a detector asks for the sizes of the images."""

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Conv2d(3, 2, 5, 2, 2)

        def forward(self, x, sizes):
            return self.head(x)

    monkeypatch.setattr("sterf_plugins.cli.begin.begin", lambda: None)
    with_sizes = Namespace(forward_for=lambda model, layers: lambda m, x: m(x, x.shape))
    monkeypatch.setitem(sys.modules, "sterf_plugins.openmmlab.runtime.tensor_forward", with_sizes)
    tool = runpy.run_path(str(TOOL))
    loaded = Loaded("net", Detector(), (8, 8), (0.0,) * 3, (1.0,) * 3, config={})
    monkeypatch.setitem(tool["compute"].__globals__, "build", lambda *_: loaded)
    monkeypatch.setattr(Loaded, "is_tracker", False)
    options = tool["parser"]().parse_args(["net", "--layers", "head", "--num", "2", "--out", str(tmp_path)])
    options.models, options.device = [["net", None]], "cpu"
    result = tool["compute"](options, tool["Job"]("net", "net", None, True), (16, 12), tmp_path, theory=True)
    assert result.info["theory"]["head"]["size"] == (5, 5)


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
        (["sdtv3_nano", "--check", "blur"], "--check blur: give occlusion, other, a number above 0, or randomisation"),
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


@pytest.mark.slow
def test_published_protocols(run, tmp_path, photos):
    """``all`` is a table; a protocol resizes images as its paper does; what contradicts it ends in a sentence."""
    options = ["resnet10t", "--images", photos, *SMALL, "--layers", "layer2"]
    lines = run(*options, "--protocol", "all", "--out", tmp_path / "all").stdout.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "the paper's own numbers" in line) :]
    assert [line.split()[:2] for line in table[1:7]] == [["layer2", name] for name in PROTOCOLS]
    assert "square_side_50" in table[3] and "openerf_sigma_x" in table[6]
    page = (tmp_path / "all" / "report.html").read_text()
    assert "layer2@luo" in page and 'id="published"' in page
    assert Image.open(tmp_path / "all" / "published.png").width > 1000
    run(*options, "--protocol", "replknet", "--out", tmp_path / "one")
    result = ERFResult.load(tmp_path / "one" / "resnet10t.npz")
    assert "protocol RepLKNet; the paper has 50 inputs of 1024×1024" in result.notes
    refused = run(*options, "--protocol", "replknet", "--reduce", "abs", "--out", tmp_path / "no", check=False)
    assert refused.returncode == 2 and "`reduce` is 'abs', but protocol 'replknet'" in refused.stderr


def test_a_protocol_decides_on_number_size_and_shape_of_images(photos):
    from types import SimpleNamespace

    from sterf_plugins.cli.images import inputs_for

    loaded = SimpleNamespace(mean=(0.0,) * 3, std=(1.0,) * 3, bgr=False)
    first = sorted(photos.iterdir())[0]
    image = np.asarray(Image.open(first).resize((40, 40)), np.float32)
    squashed, cut = (next(inputs_for(str(photos), loaded, (40, 40), 1, 0, squash))[0] for squash in (True, False))
    assert np.array_equal(squashed.permute(1, 2, 0).numpy(), image) and not torch.equal(squashed, cut)
    paper = {name: (p.num_images, p.size, p.squashed) for name, p in PROTOCOLS.items()}
    assert paper["replknet"] == paper["slak"] == (50, (1024, 1024), True) and paper["vmamba"] == (
        50,
        (1024, 1024),
        False,
    )


@pytest.mark.slow
def test_fields_are_checked_by_changes_and_by_randomised_weights(run, tmp_path):
    out = tmp_path / "out"
    arguments = ["released=sdtv3_nano_srb_released", "--layers", "stages.0", "stages.1", *SMALL, "--out", out]
    result = run(
        *arguments, "--check", "occlusion", "0.5", "randomisation", "--check-cells", "4", "--check-budget", "32"
    )
    rows = list(csv.DictReader((out / "checks.csv").read_text().splitlines()))
    assert [(r["model"], r["layer"]) for r in rows] == [
        (f"released, {how}", layer) for how in ("occlusion", "0.5") for layer in ("stages.0", "stages.1")
    ]
    # The released mixer is silent, so the field reaches patches whose change does nothing; without its surrogate it does not.
    first = [r for r in rows if r["layer"] == "stages.0"]
    assert all(float(r["unchanged"]) > 0.1 and float(r["live_common_mass"]) > float(r["common_mass"]) for r in first)
    randomised = list(csv.DictReader((out / "randomised.csv").read_text().splitlines()))
    assert float(randomised[0]["common_mass"]) == pytest.approx(1) and randomised[-1]["layer"] == "stages.1"
    assert "released, changed patches, occlusion: 100%" in result.stderr  # a bar, since it may take minutes
    check = FieldCheck.load(out / "released-0.5.check.npz")
    assert check.info["draws"] == 2 and check.maps["stages.1"].shape == (2, 4, 4, 4)
    assert "released, occlusion, measured changes" in result.stdout and Image.open(out / "checks.png").width > 300
    page = (out / "report.html").read_text()
    assert '<figure id="checks">' in page and "layers with shuffled weights" in page and ">unchanged</th>" in page


def test_inputs_that_have_time_steps_are_joined_along_their_batch_axis(monkeypatch, tmp_path):
    """Events of a config with time steps are (T, 1, C, H, W) each, which ``--check`` and get-sops took for more steps."""
    from sterf_plugins.backbones import SpikingCNN
    from sterf_plugins.cli.erf import check as field_check

    events = [torch.rand(4, 1, 2, 8, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    model = SpikingCNN(depth=1, channels=2, in_chans=2, neuron="lif", mean=0.1, std=0.6)
    loaded = Loaded("net", model, (8, 6), (0.0, 0.0), (1.0, 1.0))
    result = compute_erf(model, iter(events), "layers.0", kinds="spatial")
    result.info["request"] = {}
    options = dict(
        check=["other"], check_cells=2, check_budget=8, protocol=None, images="val", seed=0, grid=None, layout=None
    )
    options = Namespace(**options, batch_size=None, device="cpu", json=False, num=3, time_steps=None, overwrite=False)
    monkeypatch.setattr(field_check, "inputs_for", lambda *_: iter(events))
    checks, _ = field_check.check_models(options, {"net": result}, lambda label: loaded, (8, 6), tmp_path)
    assert checks["net"].maps["layers.0"].shape[0] == 3 and checks["net"].info["input_shape"] == [4, 2, 8, 6]

    options.check_cells = 1
    with pytest.raises(ValueError, match=r"net-other\.check\.npz exists and was computed with other settings"):
        field_check.check_models(options, {"net": result}, lambda label: loaded, (8, 6), tmp_path)

    monkeypatch.setattr("sterf_plugins.cli.begin.begin", lambda: None)
    inputs = runpy.run_path(str(TOOL.parent / "analysis_tools" / "get_sops.py"))["inputs"]
    monkeypatch.setitem(inputs.__globals__, "inputs_for", lambda *_: iter(events))
    assert inputs(options, loaded, (8, 6), 3).shape == (4, 3, 2, 8, 6)
    options.time_steps = 4
    with pytest.raises(ValueError, match="--time-steps 4: val has 4 time steps already"):
        inputs(options, loaded, (8, 6), 3)


class Pair(torch.nn.Module):
    """A convolution, and behind it a module that gives two maps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pair = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Identity()
        self.scale = torch.nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x):
        y = self.conv(x * self.scale)
        return self.pair((y, y.tanh()))


def test_a_check_has_the_inputs_of_the_fields_and_a_layer_without_rows_takes_none_from_others(
    monkeypatch, tmp_path, capsys
):
    """With --tolerance fields are of the first few of --num inputs, and so many of a folder are others of its images."""
    from sterf_plugins.cli.erf import check as field_check

    images, asked = torch.randn(6, 3, 8, 6, generator=torch.Generator().manual_seed(0)), []
    loaded = Loaded("net", Pair(), (8, 6), (0.0,) * 3, (1.0,) * 3)
    result = compute_erf(loaded.model, images[:4], ["conv", "pair"])
    result.info["request"] = {}
    options = dict(
        check=["occlusion", "randomisation"], check_cells=2, check_budget=None, protocol=None, images="DIR", seed=0, grid=None
    )  # fmt: skip
    options = Namespace(**options, layout=None, batch_size=None, device="cpu", json=False, num=6, overwrite=False)
    monkeypatch.setattr(field_check, "inputs_for", lambda *a: asked.append(a[3]) or iter(images.split(1)))
    checks, rows = field_check.check_models(options, {"net": result}, lambda label: loaded, (8, 6), tmp_path)
    assert asked == [6]
    field = result.spatial["conv"].reshape(2, 4, 2, 3).sum((1, 3))
    np.testing.assert_allclose(checks["net"].map("conv", "field"), field, rtol=1e-5)
    assert {row["layer"] for row in rows} == {"conv"} and checks["net"].layers == ["conv", "pair[0]", "pair[1]"]
    assert (
        "net: warning: layer 'pair' gives pair[0], pair[1]; name a layer that gives one map" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_theory_sizes_and_frequency_in_one_call(run, tmp_path):
    options = ["--layers", "layers.*", "--num", "10", "--sizes", "48", "32", "--theory", "--frequency"]
    spec = "net=sterf_plugins.backbones:SpikingCNN(depth=2, channels=2, neuron='relu', in_chans=3)"
    result = run(spec, *options, "--out", tmp_path)
    assert "layers.1 (stride 1)          5x5, stride 1, padding 2, 0.0109 of the image" in result.stdout
    assert "Smallest useful image: 3 pixels a side" in result.stdout
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [(row["height"], row["layer"]) for row in rows] == [(n, f"layers.{i}") for n in ("32", "48") for i in (0, 1)]
    numbers = list(csv.DictReader((tmp_path / "numbers.csv").open()))
    assert [row["theory_rows"] for row in numbers] == ["3.0", "5.0"]
    page = (tmp_path / "report.html").read_text()
    for name in ("theory", "sweep", "frequency"):
        assert (tmp_path / f"{name}.png").is_file() and f'<figure id="{name}">' in page
    assert "results exist" in run(spec, *options, "--out", tmp_path).stderr
    wrong = run(spec, *options, "--reduce", "square", "--out", tmp_path, check=False)
    assert wrong.returncode and "--frequency needs the signed field" in wrong.stderr


@pytest.fixture
def tracker(tmp_path):
    """Config, checkpoint and data set of a small tracker with four time steps."""
    import tracking_data

    from sterf_plugins.cli.loading import load_model

    config = tmp_path / "small_tracker.py"
    config.write_text(
        f"_base_ = [{str(ROOT / 'configs/sd_track/sdtrack-tiny-4x1_conv_fe108.py')!r}]\n"
        "model = dict(arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2), head_width=16)\n"
        "test_dataloader = dict(dataset=dict(template_size=64, search_size=128))\n"
    )
    tracking_data.make(tmp_path / "data", "fe108", "test", ["a", "b"], T=4)
    torch.manual_seed(0)
    model = load_model(str(config)).model
    pair = [30 * torch.poisson(torch.full((2, 4, 3, side, side), 0.4)) for side in (64, 128)]
    for _ in range(20):
        model.train()(*pair)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "weights.pth")
    return [config, tmp_path / "weights.pth"], tmp_path


@pytest.mark.slow
def test_a_tracker_has_fields_over_template_and_search_region(run, tracker):
    command, folder = tracker
    out = folder / "out"
    done = run(*command, "--images", folder / "data", "--num", "3", "--position", "peak", "--out", out, "--json")
    result = ERFResult.load(out / "small_tracker.npz")
    for entry, side in (("template", 64), ("search", 128)):
        name = f"head.branches.score@{entry}"
        assert result.spatial[name].shape == (side, side) and result.spatial[name].any()
        assert result.temporal[name].shape == (4,) and result.temporal[name].any()
        assert result.numbers(name)["area_90"].error > 0
        assert name in json.loads(done.stdout)["small_tracker"]
    assert "backbone.stages.0@search" in result.spatial and "backbone.stages.4.blocks@search" in result.spatial
    assert result.info["num_inputs"] == 3 and (out / "report.html").is_file() and (out / "lags.png").is_file()
    run(*command, "--num", "1", "--layers", "head.branches.*", "--out", folder / "noise")
    assert "head.branches.size@template" in ERFResult.load(folder / "noise" / "small_tracker.npz").spatial


@pytest.mark.slow
def test_mistakes_with_trackers(run, tracker):
    command, folder = tracker
    for options, message in (
        (["--check", "occlusion"], "--check is for models of one image"),
        (["--images", folder / "nowhere"], "is no folder"),
    ):
        done = run(*command, "--num", "2", "--out", folder / "out", *options, check=False)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    done = run("sdtv3_nano", *SMALL, "--position", "peak", "--out", folder / "out", check=False)
    assert done.returncode == 2 and "is no tracker" in done.stderr, done.stderr[-1500:]


@pytest.mark.slow
def test_several_inputs_and_videos(run, tmp_path):
    module = tmp_path / "pair_net.py"
    module.write_text(
        "import torch\n"
        "class Pair(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.head = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 2, 1)\n"
        "    def forward(self, search, template):\n"
        "        return self.head(self.conv(search).tanh() * self.conv(template).mean((2, 3), keepdim=True))\n"
        "class Video(torch.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(torch.nn.Conv3d(3, 2, 3, padding=1), torch.nn.Tanh())\n"
    )
    shapes = ["--inputs", "search=3x24x32", "template=3x16x16", "--num", "4", "--layers", "head"]
    run("pair_net:Pair", *shapes, "--out", "pair", cwd=tmp_path, PYTHONPATH=tmp_path)
    pair = ERFResult.load(tmp_path / "pair" / "pair_net-Pair.npz")
    assert pair.spatial["head@search"].shape == (24, 32) and pair.spatial["head@template"].shape == (16, 16)
    assert "4 noise inputs of search 3×24×32, template 3×16×16" in (tmp_path / "pair" / "report.html").read_text()
    video = ["--inputs", "3x5x16x16", "--axes", "NCTHW", "--num", "2", "--layers", "1", "--out", "video"]
    run("pair_net:Video", *video, "--position", "3,8,8", cwd=tmp_path, PYTHONPATH=tmp_path)
    frames = ERFResult.load(tmp_path / "video" / "pair_net-Video.npz").frames["1"]
    assert frames.shape == (5,) and list(np.flatnonzero(frames)) == [2, 3, 4]


def test_noise_of_the_shapes_that_are_given():
    options, loaded = input_options(inputs=["3x8x6", "3x4x4"], wrt=["1"])
    pair = given_inputs(options, loaded)
    assert [tuple(x.shape) for x in pair] == [(5, 3, 8, 6), (5, 3, 4, 4)] and entries(options) == [1]
    assert torch.equal(pair[0], given_inputs(options, loaded)[0])  # the seed decides
    options.inputs, options.axes, options.wrt = ["7x3x8x6"], "TNCHW", ["search"]
    assert given_inputs(options, loaded).shape == (7, 5, 3, 8, 6) and entries(options) == ["search"]


def input_options(**options):
    """The options of the tool about inputs, and a model that takes RGB images."""
    unused = dict(theory=False, check=[], sizes=None, input_size=None, time_steps=None, temporal=False, images="noise")
    loaded = Loaded("net", torch.nn.Identity(), (8, 8), (100.0, 110.0, 120.0), (50.0, 50.0, 50.0))
    return Namespace(**(unused | dict(axes=None, wrt=None, num=5, seed=0) | options)), loaded


def test_inputs_from_files(tmp_path):
    """Arrays with their batch axis, and folders of images, which are normalised as the model's images are."""
    clips = np.random.default_rng(0).standard_normal((4, 7, 2, 8, 6)).astype(np.float32)
    np.save(tmp_path / "clips.npy", clips)
    options, loaded = input_options(inputs=[f"{tmp_path}/clips.npy"], axes="TNCHW")
    np.testing.assert_array_equal(given_inputs(options, loaded), clips[:, :5])  # the first five of seven

    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (12, 9), (10 * i, 110, 120)).save(folder / f"{i}.png")
    np.save(tmp_path / "search.npy", clips[0, :5])
    options, _ = input_options(inputs=[f"search={tmp_path}/search.npy", f"template={folder}@3x4x4"])
    pair = given_inputs(options, loaded)
    np.testing.assert_array_equal(pair["search"], clips[0, :5])
    assert pair["template"].shape == (5, 3, 4, 4) and not pair["template"][:, 1:].any()
    assert torch.allclose(pair["template"][:, 0, 0, 0], torch.tensor([-2.0, -1.8, -1.6, -1.4, -1.2]))

    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    for source, message in (("text.npy", "is no readable array"), ("empty.npy", "is no readable array"),
                            ("photos@1x4x4", "are 3xROWSxCOLUMNS"), ("none.npy", "give a shape such as 3x64x64")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            given_inputs(input_options(inputs=[f"{tmp_path}/{source}"])[0], loaded)
    loaded.config = object()
    with pytest.raises(ValueError, match=r"net takes images: give --images DIR, val or noise, and --input-size H W"):
        given_inputs(options, loaded)
