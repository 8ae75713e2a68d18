"""What figures say: units, transforms, targets, errors, floors, and what was computed of what."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import SIZE, computed, words
from PIL import Image
from torch import nn

from sterf_plugins.erf import ERFResult, compute_erf
from sterf_plugins.erf.figures.curves import FLOOR, draw_lags, draw_profiles, draw_radial
from sterf_plugins.erf.figures.plot import draw, draw_all, draw_maps, draw_overlay, draw_spectra
from sterf_plugins.erf.figures.sheet import NARROW, WIDTH, pixels
from sterf_plugins.erf.figures.wording import (
    digits,
    error_text,
    facts,
    layer_label,
    measured,
    named,
    provenance,
    target_cells,
)
from sterf_plugins.erf.numbers.number import Number
from sterf_plugins.erf.report.evolution import rows, write_evolution
from sterf_plugins.erf.report.published import draw_published


@pytest.fixture(scope="module")
def result() -> ERFResult:
    return computed(layers=["0", "1", "2"])


@pytest.fixture(scope="module")
def timed() -> ERFResult:
    """A leak of one half from step to step: the mass at lag t is 2^-t."""

    class Leak(nn.Module):
        def forward(self, x):
            outputs = [x[0]]
            for frame in x[1:]:
                outputs.append(outputs[-1] / 2 + frame)
            return torch.stack(outputs)

    return compute_erf(nn.Sequential(Leak()), torch.randn(24, 2, 1, 5, 5), "0")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0123456, 0.00042, "0.0123 ± 0.0004"),
        (0.0123456, 0.0012, "0.0123 ± 0.0012"),
        (0.0003, 0.01, "0.0003 ± 0.0100"),
        (0.00004, 0.0, "4.00e-05"),
        (1.0047, np.nan, "1.00"),
        (0.033, np.nan, "0.0330"),
        (0.99996, np.nan, "1.00"),
        (1304.4, np.nan, "1304"),
        (17, np.nan, "17"),
        (0.75678, np.nan, "0.757"),
        (0.00298, 2e-11, "0.00298"),
        (0.0, 0.0, "0"),
        (123.456, 7.0, "123 ± 7"),
        (1.25e-9, 3e-10, "1.25e-09 ± 3e-10"),
        (-3.14159, 0.2, "-3.1 ± 0.2"),
        (0.0, 0.02, "0.00 ± 0.02"),
        (np.nan, 1.0, "–"),
        (np.inf, np.nan, "∞"),
    ],
)
def test_digits_are_those_that_the_error_leaves(value, error, text):
    assert digits(value, error) == text


def test_relative_errors_are_shares_in_percent():
    assert error_text(0.0312) == "relative error of the maps 3.1\N{NO-BREAK SPACE}%"
    shown = {
        values: error_text(*values, of="curves").replace("\xa0", " ")
        for values in ((9.5e-9, 0.2), (0.02, np.nan, 1.04))
    }
    assert shown[9.5e-9, 0.2] == "relative error of the curves 0 % to 20 %"  # a linear network, but for rounding
    assert shown[0.02, np.nan, 1.04] == "relative error of the curves 2 % to 100 %"
    assert error_text(np.nan) == "one input, no standard error"


def test_a_figure_tells_the_errors_of_what_it_shows(timed):
    """Inputs of a linear network have the same field, so that lags have no error, whatever error the maps have."""
    shown = replace(timed, spatial_error={"0": timed.spatial["0"] * np.linspace(0.1, 0.3, 5)})
    share = np.linalg.norm(shown.spatial_error["0"]) / np.linalg.norm(shown.spatial["0"])
    maps = f"relative error of the maps {100 * share:.2g} %"
    of_maps, of_lags = (words(figure).replace("\n", " ") for figure in (draw(shown), draw_lags({"": shown})))
    assert maps in of_maps and "curves" not in of_maps
    assert "relative error of the curves over lags 0 %" in of_lags and "maps" not in of_lags
    assert facts(shown)["relative error"].replace("\xa0", " ") == f"{maps}; relative error of the curves over lags 0 %"


@pytest.mark.parametrize("value", [0.0004, 0.00049, 4e-7, 0.0096])
@pytest.mark.parametrize("error", [np.nan, 0.0, 0.1, 0.003, 1e-9])
def test_a_number_is_never_shown_as_zeros_alone(value, error):
    assert re.search("[1-9]", digits(value, error).partition(" ± ")[0])


def test_maps_say_what_is_drawn(result):
    figure = draw(result)
    text = words(figure)
    assert "cube root of |∂y/∂x| over its maximum" in text
    assert (
        "random weights; 4 noise inputs of 1×24×32; protocol st-erf: mean of |∂y/∂x| over the inputs, target center"
        in text
    )
    errors = [np.linalg.norm(result.spatial_error[n]) / np.linalg.norm(result.spatial[n]) for n in result.layers]
    assert max(errors) > min(errors) and error_text(*errors).replace("\xa0", " ") in text.replace("\n", " ")
    area = measured(result.numbers("1")["area_90"])
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title().split("\n")[0] for ax in panels] == ["0, stride 1", "1, stride 1", "2, stride 4"]
    assert f"90 %: {area}" in panels[1].get_title() and "±" in area
    for ax in panels:
        assert [line.get_gid() for line in ax.lines].count("target") == 4
        assert list(ax.get_xticks()) == [0, 16, 31] and list(ax.get_yticks()) == [0, 12, 23]
        assert ax.images[0].get_cmap().name == "viridis"


def test_the_target_is_around_its_cell():
    result = computed(position=(1, 5), layers="2")
    assert result.info["map_size"]["2"] == [6, 8]
    assert target_cells(result, "2") == [(3.5, 7.5, 19.5, 23.5)]
    edges = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in draw(result).axes[0].lines}
    assert edges == {(21.5, 3.5), (21.5, 7.5), (19.5, 5.5), (23.5, 5.5)}
    two = computed(position=[(0, 0), (5, 7)], layers="2")
    assert len(target_cells(two, "2")) == 2
    assert target_cells(computed(position="all", layers="2"), "2") == []


def test_one_brightness_or_each_its_own(result):
    own, common = (draw(result, common=common) for common in (False, True))
    highest = [[float(ax.images[0].get_array().max()) for ax in figure.axes if ax.images] for figure in (own, common)]
    assert highest[0] == [1.0, 1.0, 1.0]
    tops = [np.abs(result.spatial[n]).max() for n in result.layers]
    assert highest[1] == pytest.approx([t / max(tops) for t in tops])
    assert f"over the largest of all panels, {digits(max(tops))}" in words(common)


def test_the_transform_is_that_of_the_reduction():
    assert "cube root of (∂y/∂x)² over its maximum" in words(draw(computed(reduce="square", layers="0")))


def test_what_differs_between_models_is_said_with_their_names(result):
    other = computed(layers=["0"])
    other.info |= dict(weights="net.pth", images="photographs")
    text = words(draw_maps({"A": result, "B": other})).replace("\n", " ")
    assert "A: random weights" in text and "B: trained weights (net.pth)" in text
    assert "A: 4 noise inputs of 1×24×32" in text and "B: 4 photographs of 1×24×32" in text
    single = computed(num=1, layers=["0"])
    assert facts(single)["relative error"] == "one input, no standard error"
    assert "±" not in "".join(ax.get_title() for ax in draw(single).axes)


def test_radial_profiles_have_bands_and_a_floor_that_is_no_data():
    """Behind three 3x3 layers nothing comes from further than three pixels (in rings: five)."""
    result = computed(3, layers=["0", "1", "2"])
    narrow = result.spatial["0"]
    narrow[0, 0] = narrow.max() * 1e-8  # rounding, far away
    figure = draw_radial({"net": result})
    ax = next(ax for ax in figure.axes if ax.get_title())
    for line in ax.lines:
        values = np.asarray(line.get_ydata())
        assert np.nanmin(values) > FLOOR and np.nanmax(values) == 1
        assert np.isnan(values[6:]).all()
    assert len([c for c in ax.collections]) == 3
    styles = {(line.get_linestyle(), line.get_marker(), line.get_color()) for line in ax.lines}
    assert len(styles) == 3 and len({style[:2] for style in styles}) == 3  # without colours, too
    text = words(figure).replace("\n", " ")
    assert "Band: ±" in text and "pixels of the input" in text and "net: random weights" in text
    assert "Not drawn: what is below 1e-06." in text


def test_a_floor_within_the_picture_is_marked():
    result = computed(8, layers=["7"])
    result.spatial["7"][:, :] = np.exp(-np.hypot(*np.indices(SIZE) - np.array([12, 16])[:, None, None]))
    figure = draw_radial({"net": result})
    ax = next(ax for ax in figure.axes if ax.get_title())
    marked = [patch.get_gid() for patch in ax.patches]
    lowest = np.nanmin(ax.lines[0].get_ydata())
    assert lowest > FLOOR
    assert marked == (["floor"] if lowest < 10 * FLOOR else [])


def test_frames_of_a_video_are_drawn():
    model = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Tanh())
    result = compute_erf(model, torch.randn(3, 1, 5, 8, 8), "1", axes="NCTHW")
    figures = draw_all({"video": result})
    assert {"maps", "frames"} <= set(figures)
    ax = next(ax for ax in figures["frames"].axes if ax.get_title())
    values = np.asarray(ax.lines[0].get_ydata())
    assert np.isnan(values[[0, 4]]).all() and np.nansum(values) == pytest.approx(1)  # a kernel of three frames
    assert len([line for line in figures["maps"].axes[0].lines if line.get_gid() == "target"]) == 4
    assert "3 inputs of 1×5×8×8" in words(figures["maps"])
    assert "cube root of |∂y/∂x|, summed over frames, over its maximum" in words(figures["maps"]).replace("\n", " ")
    assert "relative error of the curves over frames" in words(figures["frames"]).replace("\n", " ")


def test_bands_of_lags_are_errors_of_shares():
    """Inputs whose fields differ in size alone have the same shares of mass at each lag, and a band of no width."""

    class Leak(nn.Module):
        def forward(self, x):
            return torch.stack([x[0], x[1] + x[0] / 2]) * x.detach()[:1].square().mean((2, 3, 4), keepdim=True)

    result = compute_erf(nn.Sequential(Leak()), torch.randn(2, 6, 1, 3, 3), "0", kinds="temporal")
    assert (result.temporal_error["0"] > 0.01 * result.temporal["0"]).all()
    (band,) = draw_lags({"leak": result}).axes[0].collections
    assert {(x, round(y, 4)) for x, y in band.get_paths()[0].vertices} == {(0, 0.6667), (1, 0.3333)}


def test_lags_are_exponentials(timed):
    figure = draw_lags({"leak": timed})
    ax = next(ax for ax in figure.axes if ax.get_title())
    values = np.asarray(ax.lines[0].get_ydata())
    expected = 0.5 ** np.arange(24) / (2 - 0.5**23)
    assert np.allclose(values[:19], expected[:19], rtol=1e-5)
    assert np.isnan(values[19:]).all()  # below 1e-6
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    assert ax.get_yscale() == "log" and [p.get_gid() for p in ax.patches] == ["floor"]
    assert "below 1e-06: not drawn" in words(figure)


def test_profiles_tell_the_gaussians_widths(result):
    figure = draw_profiles({"net": result})
    numbers = result.numbers("1")
    title = figure.axes[1].get_title()
    assert f"σ x: {measured(numbers['sigma_x'])} px" in title and f"R²: {measured(numbers['gaussian_r2'])}" in title


def test_overlay_has_a_scale(result):
    text = words(draw_overlay({"net": result}, np.ones((*SIZE, 3))))
    assert "brightness of the image: cube root of |∂y/∂x| over its maximum" in text


@pytest.mark.slow
def test_no_figure_shows_zeros_for_a_number(result, timed):
    for figure in [*draw_all({"a": result, "b": result}).values(), *draw_all({"t": timed}).values()]:
        assert not re.search(r"(?<![\d.])0\.0+(?!\d)(?! ±)", words(figure).replace("0.0\n", ""))


@pytest.mark.slow
def test_vector_files_hold_text(result, tmp_path):
    result.plot(tmp_path / "erf.svg", common=True)
    text = (tmp_path / "erf.svg").read_text()
    assert "random weights" in text and "<text" in text
    result.plot(tmp_path / "erf.pdf")
    assert b"/Type /Font" in (tmp_path / "erf.pdf").read_bytes()


@pytest.mark.slow
def test_the_evolution_of_a_training(tmp_path):
    result = computed(layers=["2"])
    steps = {100 * i: replace(result, info=result.info | dict(weights=None, step=100 * i)) for i in range(13)}
    picture = write_evolution(steps, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"evolution.png", "evolution.pdf", "evolution.gif"}
    assert picture.shape[1] == round(100 * WIDTH) or picture.shape[1] < 100 * WIDTH
    with Image.open(tmp_path / "evolution.gif") as animation:
        assert animation.n_frames == 13
    shown = rows({f"step {step}": r for step, r in steps.items()})
    assert len(shown) == 12 and {"step 0", "step 1200"} <= set(shown)
    assert provenance(shown)[0].startswith("weights at step n of the training; 4 noise inputs")


@pytest.mark.slow
def test_frames_of_an_animation_have_the_size_of_the_largest(tmp_path):
    """A later step may need more lines below, which would be cut."""
    first = computed(num=2, layers=["2"])
    later = replace(first, info=first.info | dict(cut=["a.block.with.a.long.name", "another.block.with.a.long.name"]))
    write_evolution({0: first, 1: later}, tmp_path)
    heights = [len(pixels(draw_maps({"": r}, notes=["step 0."]), 100)) for r in (first, later)]
    with Image.open(tmp_path / "evolution.gif") as animation:
        assert heights[0] < heights[1] == animation.size[1] and animation.n_frames == 2


def test_profiles_of_a_field_in_a_corner_are_not_blank(result):
    """A Gaussian with its centre beyond the map has no width there, and the middle of the map nothing of the field."""
    field = np.zeros(SIZE, np.float32)
    field[:6, :6] = np.exp(-0.3 * np.add.outer(np.arange(6), np.arange(6)))
    corner = replace(result, layers=["0"], spatial={"0": field}, _numbers={}, _estimates={})
    for line in draw_profiles({"": corner}).axes[0].lines[:2]:
        assert max(line.get_ydata()) > 0.2


def test_no_unit_stands_behind_a_width_that_is_none(result):
    flat = replace(result, layers=["0"], spatial={"0": np.ones(SIZE, np.float32)}, _numbers={}, _estimates={})
    assert "σ x: –\n" in draw_profiles({"net": flat}).axes[0].get_title()


@pytest.mark.slow
def test_maps_of_other_protocols_say_what_was_done_to_them():
    result = computed(layers=["0"], protocol="all")
    figure = draw_published({"net": result})
    titles = {ax.get_title().replace("\n", " ") for ax in figure.axes if ax.get_title()}
    assert any(t.startswith("0@luo, stride 1") for t in titles) and not any("@st-erf" in t for t in titles)
    assert all(re.search(r"@[\w-]+, stride 1 .+: .+", title) for title in titles)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert all([line.get_gid() for line in ax.lines].count("target") == 4 for ax in panels)
    assert len([ax for ax in figure.axes if not ax.get_title() and ax.axison]) == len(panels)  # a colour bar each
    assert "layer@protocol" in words(figure) and figure.get_figwidth() <= WIDTH
    assert "cube root of the field over its maximum" in words(draw(result))
    assert "scale" not in draw_all({"net": result})  # sums and means have no common brightness
    assert "protocol st-erf: mean of |∂y/∂x|" in facts(computed(layers="0", protocol="st-erf"))["protocol"]


def test_pictures_in_the_docs_have_alternative_texts():
    root = Path(__file__).resolve().parents[2]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "configs").rglob("README.md")]
    pictures = [m for page in pages for m in re.findall(r"!\[([^\]]*)\]\((\S+\.png)\)", page.read_text())]
    assert len(pictures) >= 10
    assert {path: text for text, path in pictures if len(text) < 25} == {}


def test_outputs_of_a_backbone_are_named_by_stage_and_stride():
    """``backbone[0]`` is the output of the stage that ``out_indices`` says; sizes need not be divisible by strides."""

    class Backbone(nn.Module):
        num_stages, out_indices = 3, (0, 2)

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 4, 1)

        def forward(self, x):
            y = self.first(x).tanh()
            return y, self.second(y).tanh()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Conv2d(2, 1, 1)

        def forward(self, x):
            return self.head(self.backbone(x)[0])

    model = Net()
    result = compute_erf(model, torch.randn(2, 1, 30, 21), ["backbone", "head"])
    labels = [layer_label(result, layer) for layer in result.layers]
    assert labels == ["backbone stage 0, stride 2", "backbone stage 2, stride 8", "head, stride 2"]
    assert named(result, "backbone[1]") == "backbone[1] (stage 2, stride 8)"
    titles = [ax.get_title().split("\n")[0] for ax in draw(result).axes if ax.get_title()]
    assert titles == labels
    del Backbone.num_stages  # now ``out_indices`` may count blocks
    again = compute_erf(model, torch.randn(2, 1, 30, 21), "backbone")
    assert layer_label(again, "backbone[1]") == "backbone[1], stride 8"


@pytest.mark.slow
def test_no_legend_is_wider_than_its_figure(result, timed):
    """A single panel is narrow, and four lines have long names."""
    one = computed(layers=["2"])
    for figure in (
        draw_profiles({"net": one}),
        draw_radial({"net": result}, NARROW),
        draw_lags({"leak": timed}, NARROW),
    ):
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width == 100 * NARROW


@pytest.mark.parametrize("page", [WIDTH, NARROW])
@pytest.mark.slow
def test_figures_end_with_what_they_show(result, page):
    """Nothing is cut at an edge, the names of rows neither, and there is no blank at the top."""
    two = {"a model": result, "another model": computed(layers=["0"])}
    for figure in (
        draw_maps({"": computed(layers=["2"])}, page=page),
        draw_maps(two, page=page),
        draw_spectra(two, page),
    ):
        blank = np.flatnonzero((pixels(figure, 100) < 250).any(2).any(1))[0]
        box = figure.get_tightbbox()
        assert (
            blank <= 10
            and box.x0 > 0.01
            and box.x1 <= figure.get_figwidth()
            and box.y1 <= figure.get_figheight() + 0.01
        )


def test_panels_of_several_sizes_have_their_own_numbers():
    """A tracker's template and search region, for example; nor does an output that is finer than the input matter."""
    from matplotlib import ticker

    small, large = computed(layers=["0"]), computed(layers=["0"])
    small.spatial["0"] = small.spatial["0"][:12, :16]
    for results, shown in (({"a": large, "b": large}, 3), ({"a": large, "b": small}, 4)):
        figure = draw_maps(results)
        figure.canvas.draw()
        axes = [axis for ax in figure.axes if ax.get_title() for axis in (ax.xaxis, ax.yaxis)]
        assert sum(axis.get_major_ticks()[0].label1.get_visible() for axis in axes) == shown
        assert all(isinstance(axis.get_major_locator(), ticker.FixedLocator) for axis in axes)


def test_a_phase_of_plus_or_minus_pi_is_one_line():
    """Rounding decides the sign of pi; a line that leads from one to the other looks like a response."""
    from matplotlib.figure import Figure

    from sterf_plugins.erf.frequency import FrequencyResponse
    from sterf_plugins.erf.report.charts import draw_response

    turn = np.array([0, 0, np.pi, 3 * np.pi, -np.pi, 0, 0])
    response = FrequencyResponse(np.linspace(0, 0.5, 7), np.ones(7), turn, np.zeros(7), Number(np.inf, np.nan))
    gains, phases = Figure().subplots(1, 2)
    draw_response(gains, phases, response, dict(color="k"))
    drawn = np.asarray(phases.lines[0].get_ydata())
    assert np.abs(np.diff(drawn[np.isfinite(drawn)])).max(initial=0) < 4 and (drawn[np.isfinite(drawn)] > -1).all()
