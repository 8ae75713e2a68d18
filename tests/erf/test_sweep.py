"""Receptive fields over image sizes."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import advice, check_field, compute_erf, sweep_sizes
from sterf_plugins.erf.report.charts import draw_growth, draw_responses, draw_sweep
from sterf_plugins.erf.sweep import resized, sweep_rows
from sterf_plugins.erf.theory.compute import theoretical_rf
from sterf_plugins.erf.theory.field import add_theory


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )


def test_a_local_field_stays_and_a_global_one_grows():
    sweep = sweep_sizes(net(), lambda size: torch.randn(10, 3, *size), [64, 32, (32, 48)], ["2", "3"])
    assert list(sweep) == [(32, 32), (32, 48), (64, 64)]
    rows = {(r["height"], r["width"], r["layer"]): r for r in sweep_rows(sweep)}
    assert all(row["area_90_error"] >= 0 and row["r90_error"] >= 0 for row in rows.values())
    local = [rows[(*size, "2")]["area_90_pixels"] for size in sweep]
    assert max(local) - min(local) < 3 and max(local) <= 25
    whole = [rows[(*size, "3")]["area_90_pixels"] / (size[0] * size[1]) for size in sweep]
    assert np.allclose(whole, whole[0], atol=0.1)


def test_images_are_resized():
    images = torch.randn(4, 3, 40, 40)
    sweep = sweep_sizes(net(), images, [20, 40], "2")
    assert sweep[20, 20].info["input_shape"] == [3, 20, 20]
    plain = compute_erf(net(), images, "2")
    assert np.array_equal(sweep[40, 40].spatial["2"], plain.spatial["2"])
    with pytest.raises(ValueError, match="`axes` is 'NHWC', and a tensor is resized along its last two axes"):
        sweep_sizes(net(), images.permute(0, 2, 3, 1), [20], "2", axes="NHWC")
    with pytest.raises(ValueError, match="`sizes` is empty"):
        sweep_sizes(net(), images, [])
    with pytest.raises(TypeError, match="`inputs` is a list; give a tensor"):
        sweep_sizes(net(), [images], [20])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_images_of_any_type_are_resized(dtype):
    images = (torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    found, expected = resized(images, (6, 5)), resized(images.float(), (6, 5))
    assert found.dtype == dtype and (found.float() - expected).abs().max() <= 0.5


@pytest.mark.parametrize("size", ["8", 8.0, True, (8, 8, 8), (8,), 0])
def test_sizes_that_are_none(size):
    model, x = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.randn(2, 1, 8, 8)
    with pytest.raises((TypeError, ValueError), match="`sizes` is "):
        sweep_sizes(model, x, [size], "0")
    with pytest.raises((TypeError, ValueError), match="`image_size` is "):
        theoretical_rf(model, size, "0", in_channels=1)
    with pytest.raises((TypeError, ValueError), match="`image_size` is "):
        advice({}, size)
    with pytest.raises((TypeError, ValueError), match="`cells` is "):
        check_field(model, x, "0", cells=size)
    assert list(sweep_sizes(model, x, np.array([8]), "0")) == [(8, 8)]
    with pytest.raises(TypeError, match=r"`sizes` is 8 \(int\); it must be a list or tuple, such as \[8\]"):
        sweep_sizes(model, x, 8, "0")


def test_a_layer_without_a_field_in_the_largest_images_is_drawn_for_the_others():
    class Small(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            return y + self[1](y if len(x[0, 0]) < 30 else y.detach())

    model = Small(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    sweep = sweep_sizes(model, torch.randn(2, 3, 16, 16), [16, 32], ["0", "1"])
    assert [result.layers for result in sweep.values()] == [["0", "1"], ["0"]]
    area, _ = draw_sweep({"net": sweep}).axes
    assert sorted(len(line.get_xdata()) for line in area.lines if line.get_marker() in ("o", "s")) == [1, 2]


@pytest.mark.slow
def test_charts():
    model = net()
    sweep = sweep_sizes(model, lambda size: torch.randn(10, 3, *size), [32, 64], ["0", "2", "3"], reduce="signed")
    fields = theoretical_rf(model, (64, 64), ["0", "2", "3"])
    add_theory(sweep[64, 64], fields)
    area, radius = draw_sweep({"net": sweep}).axes
    assert area.get_title() == "net: 90 % area [px²]" and radius.get_title() == "net: r90 [px]"
    level = {float(line.get_ydata()[0]) for line in area.lines if line.is_dashed() and line.get_marker() == "None"}
    assert level == {9, 25}  # theoretical; the third is the whole image
    result = sweep[64, 64]
    figure = draw_growth({"net": result})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "2", "3"]
    gain, phase = draw_responses({"net": result}).axes
    assert "gain by frequency [cycles/px]" in gain.get_title() and "phase [rad]" in phase.get_title()
    assert len(gain.get_legend().get_texts()) == 3 and gain.get_legend().get_title().get_text() == "cutoff [cycles/px]"
