"""The tool that counts spikes, operations and energy."""

import csv
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "analysis_tools" / "get_sops.py"


@pytest.mark.slow
def test_the_tool(forked, tmp_path):
    arch = dict(embed_dims=(24, 48, 96, 128), num_heads=8, depths=(1, 1, 1, 1, 1))
    options = [f"sdtv3_nano_srb(arch={arch})", "--input-size", "64", "64", "--num", "2"]
    result = forked(TOOL, *options, "--csv", tmp_path / "sops.csv", "--maps", tmp_path / "maps.png", fresh=True)
    assert result.returncode == 0, result.stderr
    assert "stages.3.blocks.0.attn (product)" in result.stdout and "4.6 pJ" in result.stdout
    assert "full µJ" in result.stdout and max(map(len, result.stdout.partition("\n\nper input")[0].split("\n"))) <= 125
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    table = list(csv.DictReader((tmp_path / "sops.csv").open()))
    assert table[0]["layer"] == "stages.0.downsample.conv" and table[0]["compute_break_even"] == ""
    assert float(table[1]["compute_break_even"]) == pytest.approx((3.7 * 3 / 32 + 0.9) / 3.6)  # 3 bits for D = 4
    assert table[-1]["layer"] == "total"
    for column in ("macs", "acs", "compute_uj", "memory_uj", "memory_quantised_uj", "full_uj", "full_quantised_uj"):
        parts = [float(row[column]) for row in table[:-1] if row[column]]
        assert sum(parts) == pytest.approx(float(table[-1][column]))
    compute = forked(TOOL, *options, "--model", "compute").stdout
    assert "compute µJ" in compute and "full µJ" not in compute and "locally" in compute
    record = json.loads(forked(TOOL, *options, "--json").stdout)
    assert record["total"]["full_quantised_uj"] == pytest.approx(float(table[-1]["full_quantised_uj"]))
    assert record["total"]["energy_mj"] > 0 and record["total"]["inputs"] == 2
    assert len(record["neurons"]["stages.0.blocks.0.mixer.spike1"]["histogram"]) == 5
    assert record["weights"] == "random weights, BatchNorm statistics of 8 inputs" and record["not_counted"] == {}
    failed = forked(TOOL, *options, "--time-steps", 0)
    assert failed.returncode == 2 and "--time-steps is 0; it must be at least 1" in failed.stderr
    failed = forked(TOOL, *options, "--maps", tmp_path / "maps.pdf")
    assert failed.returncode == 2 and "maps.pdf is written as PNG; give a name that ends in .png" in failed.stderr
    both = tmp_path / "both.png"
    failed = forked(TOOL, *options, "--csv", both, "--maps", tmp_path / "." / "both.png")
    assert failed.returncode == 2 and "--csv and --maps are both" in failed.stderr and not both.exists()
    failed = forked(TOOL, "resnet18", "--input-size", "32", "32")
    assert failed.returncode == 2 and "no spiking neuron layer" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_tool_with_one_input_of_any_number_of_channels(forked, channels):
    """Untrained BatchNorms get statistics all the same; with the initial ones 99.8 % of the channels were dead."""
    options = ["--input-size", "32", "32", "--num", "1", "--json"]
    result = forked(TOOL, f"sdtv3_nano_srb(in_chans={channels}, norm_hidden=True)", *options)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["total"]["inputs"] == 1 and record["total"]["dead"] < 0.6
    # The image is 32x32 and the stem a 7x7 convolution to 12 channels with stride 2.
    stem = next(row for row in record["layers"] if row["layer"] == "stages.0.downsample.conv")
    assert stem["macs"] == 16 * 16 * 12 * 49 * channels


@pytest.mark.slow
def test_the_tool_lists_what_it_could_not_count(forked, tmp_path):
    (tmp_path / "unknown_product.py").write_text(
        "from torch import nn\n"
        "from sterf_plugins.layers import IntegerSpike\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.spike, self.product = nn.Conv2d(3, 4, 1), IntegerSpike(), nn.Bilinear(8, 8, 2)\n"
        "    def forward(self, x):\n"
        "        y = self.spike(self.conv(x))\n"
        "        return self.product(y, y)\n"
    )
    result = forked(TOOL, "unknown_product:Model", "--input-size", "8", "8", environment=dict(PYTHONPATH=tmp_path))
    assert result.returncode == 0, result.stderr
    assert "NOT COUNTED, so that the numbers are too small: aten::_trilinear (1 calls)" in result.stdout
    assert "weights: no checkpoint: random weights, unless the model loads its own" in result.stdout
    assert "heads" not in result.stdout


@pytest.mark.slow
def test_the_tool_says_that_heads_are_left_out(forked, tmp_path):
    """As of a detector, whose heads need more than images."""
    (tmp_path / "two_parts.py").write_text(
        "from torch import nn\n"
        "from sterf_plugins.layers import IntegerSpike\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.backbone, self.head = nn.Sequential(nn.Conv2d(3, 4, 1), IntegerSpike()), nn.Conv2d(4, 2, 1)\n"
        "    def extract_feat(self, x):\n"
        "        return self.backbone(x)\n"
    )
    options = ("two_parts:Model", "--input-size", "8", "8")
    result = forked(TOOL, *options, environment=dict(PYTHONPATH=tmp_path))
    assert result.returncode == 0, result.stderr
    assert "backbone and neck alone: the heads did not run, and are in no number" in result.stdout
    assert (
        json.loads(forked(TOOL, *options, "--json", environment=dict(PYTHONPATH=tmp_path)).stdout)["left_out"]
        == "heads"
    )


def test_pretrained_weights_are_timms(forked):
    """Of a config or a factory they were random, and nothing said so but a line below the table."""
    result = forked(TOOL, "torch.nn:Identity", "--pretrained")
    assert result.returncode == 2
    assert "--pretrained is for timm's models, and torch.nn:Identity is none" in result.stderr
