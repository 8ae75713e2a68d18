"""The figure of covariance, and the numbers in it."""

import re
import runpy
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "show_covariance.py"


@pytest.mark.slow
def test_the_response_moves_with_field_and_image(forked, tmp_path):
    result = forked(TOOL, tmp_path / "figure.png", "--size", 96, "--sigma", 2, fresh=True)
    assert result.returncode == 0, result.stderr
    errors = re.findall(r"transformed: (\S+) +unchanged: (\S+)", result.stdout)
    assert len(errors) == 4
    assert all(float(alike) < 5e-3 and float(unchanged) > 0.1 for alike, unchanged in errors)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.slow
def test_bad_options(forked, tmp_path):
    for option, value, message in (
        ("--ratio", 0.5, "must be >= 1"),
        (
            "--sigma",
            10,
            "a window of 285 pixels, which fits nowhere into images of 128; give a smaller --sigma, or --size",
        ),
    ):
        result = forked(TOOL, tmp_path / "figure.png", option, value)
        assert result.returncode == 2
        assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_panel_is_blank():
    """Each column has the colours of its own values, and a colour bar: small differences are seen, too."""
    tool = runpy.run_path(str(TOOL), run_name="tool")
    bank = tool["RFBank"]([1.5], [2.0], angles=[0.3], orders=[(0, 1)], truncate=5).requires_grad_(False)
    maps = [torch.tensor(a, dtype=torch.float64) for a in tool["MAPS"].values()]
    figure = tool["draw"]({name: tool["compare"](bank, a, 64) for name, a in zip(tool["MAPS"], maps, strict=True)})
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 20
    for column in (panels[i::5] for i in range(5)):
        images = [ax.images[0] for ax in column]
        tops = {image.norm.vmax for image in images}
        assert len(tops) == 1
        assert max(abs(image.get_array()).max() for image in images) == pytest.approx(tops.pop())
    labels = [ax.get_xlabel() for ax in figure.axes if not ax.images]
    assert labels == ["brightness", "over its largest", *["over the largest"] * 3]
    errors = panels[3].get_title().split("\n")[-1]
    assert errors.startswith("largest 0.00")
