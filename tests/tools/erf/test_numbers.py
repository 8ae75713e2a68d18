"""tools/erf.py: protocols, checks by changes, theory, sizes and frequency responses."""

import csv
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sterf_plugins.cli.loading import Loaded
from sterf_plugins.erf import FieldCheck, compute_erf
from sterf_plugins.erf.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "erf.py"
SMALL = ["--num", "2", "--input-size", "32", "48"]


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
def test_published_protocols(run, compute, tmp_path, photos):
    """``all`` is a table; a protocol resizes images as its paper does; what contradicts it ends in a sentence."""
    options = ["resnet10t", "--images", photos, *SMALL, "--layers", "layer2"]
    lines = run(*options, "--protocol", "all", "--out", tmp_path / "all").stdout.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "the paper's own numbers" in line) :]
    assert [line.split()[:2] for line in table[1:7]] == [["layer2", name] for name in PROTOCOLS]
    assert "square_side_50" in table[3] and "openerf_sigma_x" in table[6]
    page = (tmp_path / "all" / "report.html").read_text()
    assert "layer2@luo" in page and 'id="published"' in page
    assert Image.open(tmp_path / "all" / "published.png").width > 1000
    result = compute(*options, "--protocol", "replknet", "--out", tmp_path / "one")
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
