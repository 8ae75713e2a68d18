"""The report of receptive fields: its tables, its pictures, and what it says of them."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from drawn import computed, words
from PIL import Image
from torch import nn

from sterf_plugins.erf import ERFResult, check_field, sweep_sizes, theoretical_rf
from sterf_plugins.erf.figures.check_plot import draw_checks
from sterf_plugins.erf.figures.sheet import NARROW, RESOLUTION, WIDTH, embedded, pixels
from sterf_plugins.erf.figures.wording import facts, measured
from sterf_plugins.erf.numbers.number import Number
from sterf_plugins.erf.report.charts import draw_growth, draw_responses, draw_sweep
from sterf_plugins.erf.report.folder import CAPTIONS, COLUMNS, write_report
from sterf_plugins.erf.report.tables import html_table
from sterf_plugins.erf.theory.field import add_theory


@pytest.fixture(scope="module")
def result() -> ERFResult:
    return computed(layers=["0", "1", "2"])


class Page(HTMLParser):
    """Tables with their head and whether they are folded away, pictures' alternative texts and narrow forms, what cannot scroll."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[tuple[bool, list[str]]] = []
        self.alts: list[str] = []
        self.narrow: list[str] = []
        self.unscrolled: list[str] = []
        self.open: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        inside = [name for name, _ in self.open]
        if tag == "table":
            self.tables.append(("details" in inside, []))
        if tag == "table" and "scroll" not in [kind for _, kind in self.open]:
            self.unscrolled.append(tag)
        if tag == "source":
            self.narrow.append(attrs["srcset"])
        if tag == "th":
            self.tables[-1][1].append("")
        if tag == "img":
            self.alts.append(attrs["alt"])
        elif tag not in ("meta", "link", "br", "source", "wbr"):
            self.open.append((tag, attrs.get("class")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "th":
            self.tables[-1][1][-1] += data


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (Number(0.25, 0.001), '<td data-value="0.25">0.2500 <small>± 0.0010</small></td>'),
        (Number(np.inf, np.nan), '<td data-value="Infinity">∞</td>'),
        (-np.inf, '<td data-value="-Infinity">-∞</td>'),
        (Number(np.nan, np.nan), '<td data-value="-Infinity">–</td>'),
        (None, '<td data-value="-Infinity">–</td>'),
    ],
)
def test_a_column_sorts_what_is_no_number_to_its_ends(value, cell):
    """``data-value`` is what JavaScript's Number() reads; "nan" and "inf" would be compared as text."""
    assert cell in html_table(["layer", "sigma_x"], [["0", value]])


def test_telephones_show_the_model_above_the_layer():
    several = html_table(["model", "layer", "r90"], [["a & b", "0", 1.0], ["c", "0", 2.0]])
    assert (
        '<td class="text" data-model="a &amp; b" data-value="0">0</td>' in several and several.count("text model") == 3
    )
    assert "model" not in html_table(["model", "layer", "r90"], [["a", "0", 1.0], ["a", "1", 2.0]])


def test_words_of_tables_stay_whole_unless_they_are_long():
    table = html_table(
        ["layer", "is", "count"], [["blocks.10, stride 16", "unclear", 3], ["backbone.stages.0.norm", "larger", 12]]
    )
    assert '<th scope="col" class="text">is</th><th scope="col">count</th>' in table
    assert table.count('class="text long"') == 1 and '<td class="text" data-value="unclear">' in table
    assert '<td data-value="12.0">12</td>' in table


def picture_width(address: str) -> float:
    """Inches of a picture in an address that holds it."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return picture.width / RESOLUTION


@pytest.mark.slow
def test_the_report(result, tmp_path):
    other = computed(layers=["0"])
    other.info |= dict(weights="net.pth")
    path = write_report({"drawn": result, "trained <b>": other}, tmp_path, "Two networks", vector=None)
    text = path.read_text()
    page = Page(text)
    (folded, first), *others = page.tables
    assert not folded and first == ["model", "layer", "area_50", "area_90", "r90", "anisotropy"]
    assert others and all(folded and len(head) <= COLUMNS + 2 <= 8 for folded, head in others)
    shown = {name for _, head in others for name in head} - {"model", "layer"}
    assert shown == set(result.numbers("0"))  # nothing is left out
    assert page.unscrolled == []
    assert ".scroll { overflow-x: auto; max-width: 100%; }" in text
    before_numbers = text[: text.index("<h2>Numbers</h2>")]
    for fact in (
        "random weights",
        "trained weights (net.pth)",
        "4 noise inputs of 1×24×32",
        "relative error of the maps",
    ):
        assert fact in before_numbers
    assert len(page.alts) == 5  # maps, scale, profiles, radial, spectra
    widths = [picture_width(source) for source in page.narrow]
    assert widths == [NARROW] * 5 and "figure img { display: block; height: auto; max-width: 100%; }" in text
    assert all("drawn: 90 % of the mass on 0, stride 1: 0" in alt and "±" in alt for alt in page.alts)
    assert "trained &lt;b&gt;" in text and "trained <b>" not in text
    assert not re.search(r">-?0\.0+<", text)


@pytest.mark.slow
def test_theory_sweep_frequency_and_checks_are_in_the_report(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))
    sweep = sweep_sizes(model, lambda size: torch.randn(4, 3, *size), [16, 24], ["0", "2"], reduce="signed")
    result = sweep[24, 24]
    result.info |= dict(weights="random", images="noise")
    add_theory(result, theoretical_rf(model, (24, 24), ["0", "2"]))
    check = check_field(model, torch.randn(4, 3, 24, 24), ["2"], cells=4)
    check.info |= dict(weights="random", images="noise")
    row = dict(model="net", layer="2", randomised=1, down_to="2", rank=0.5, rank_error=0.1)
    rows = [row | dict(common_mass=0.5, common_mass_error=0.1)]
    options = dict(sweeps={"net": sweep}, frequency=True, checks={"net": check}, randomised=rows)
    text = write_report({"net": result}, tmp_path, "All of it", **options).read_text()
    page = Page(text)
    heads = [head[1] for folded, head in page.tables if not folded]  # of one model, whose name has no column
    assert heads == ["area_50", "theoretical field, px", "image", "in", "rank", "layers with shuffled weights"]
    assert page.unscrolled == [] and "Smallest useful image: 3 pixels" in text
    assert ">5x5</td>" in text and "16×16" in text and ">cutoff</th>" in text
    for name in ("theory", "sweep", "frequency", "checks"):
        assert f'<figure id="{name}">' in text and (tmp_path / f"{name}.pdf").is_file()
    names = ("frequency", "sweep", "checks")
    alternatives = {name: next(alt for alt in page.alts if alt.startswith(CAPTIONS[name])) for name in names}
    assert "net: spatial cutoff 0, stride 1: " in alternatives["frequency"] and "cycles/px" in alternatives["frequency"]
    assert (
        "net, 16×16 px: 90 % of the mass on 0, stride 1: " in alternatives["sweep"]
        and "24×24 px" in alternatives["sweep"]
    )
    rank = measured(check.numbers("2")["rank"])
    assert f"net: rank correlation of field and changes 2: {rank}." in alternatives["checks"]
    for figure in (draw_growth({"net": result}), draw_sweep({"net": sweep}), draw_responses({"net": result})):
        assert "random weights; 4 noise inputs of 3×24×24" in words(figure) and figure.get_figwidth() <= WIDTH
    said = words(draw_checks({"net": check})).replace("\n", " ")
    assert "random weights; 4 noise inputs of 3×24×24; 4×4 patches occluded by the mean; unit: target center" in said
    assert "relative error of the maps" in said
    both = draw_checks({"a": check, "b": check})
    panels = [ax for ax in both.axes if ax.get_title()]
    assert words(both).count("random weights") == 1  # what all share, once
    assert [ax.get_title().split("\n")[0] for ax in panels[:3]] == [
        "mass of |∂y/∂x|",
        "predicted: |⟨∂y/∂x, Δx⟩|",
        "measured: |Δy|",
    ]
    assert f"ρ {measured(check.numbers('2')['rank'])}" in panels[0].get_title()
    assert all([line.get_gid() for line in ax.lines].count("target") == 4 for ax in panels)
    assert "|mean of ∂y/∂x over the inputs|" in facts(result)["protocol"]


@pytest.mark.parametrize("inches, height", [(2, 2 * RESOLUTION), (120, 16_383)])
def test_a_figure_of_any_length_is_embedded(inches, height):
    """A side of a WebP picture has at most 16,383 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5, inches))
    FigureCanvasAgg(figure)
    data = base64.b64decode(embedded(pixels(figure)).partition(",")[2])
    assert Image.open(io.BytesIO(data)).height == height
