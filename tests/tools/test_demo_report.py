"""The picture of receptive fields in the demo's report, from files as the demo's trainings leave them."""

import runpy
from pathlib import Path

import matplotlib.text
import pytest
import torch
from torch import nn

from sterf_plugins.erf import compute_erf

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo_report.py"


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL), run_name="tool")


@pytest.fixture
def out(tmp_path):
    """Fields of two mixers, before and after a training."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
    for name in ("fields_conv", "fields_srb"):
        for step in (0, 1, 2):
            compute_erf(model, torch.randn(2, 1, 16, 16), list("0123")).save(
                tmp_path / name / "20260101_000000" / "vis_data" / "erf" / f"{step}.npz"
            )
    return tmp_path


def test_rows_are_random_and_trained_weights(tool, out):
    fields = tool["receptive_fields"](out)
    assert list(fields) == ["conv, random", "conv, trained", "SRB, random", "SRB, trained"]
    tool["mixer_picture"](fields, out / "erf_mixers.png")
    assert (out / "erf_mixers.png").is_file() and (out / "erf_mixers.pdf").is_file()
    text = tool["field_picture"](fields, out / "erf_mixers.png")
    assert "SRB, trained: 0 0." in text and 'class="scroll"' in text
    text = "\n".join(t.get_text() for t in tool["draw_maps"](fields).findobj(matplotlib.text.Text)).replace("\n", " ")
    assert "conv, random, SRB, random: random weights" in text
    assert f"conv, trained, SRB, trained: trained weights ({tool['TRAINED']})" in text


def test_charts_have_an_alternative_text_and_differ_without_colours(tool):
    svg = tool["chart"]({"loss": ([1, 2], [3, 4]), "loss_cls": ([1, 2], [2, 1])}, "loss")
    assert svg.startswith('<svg role="img" aria-label="loss by iteration: loss, loss_cls"')
    assert "stroke-dasharray" in svg
