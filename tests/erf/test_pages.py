"""How panels fill a page: rows and columns of few and of many layers and models, narrow pages, and signals."""

import re
from itertools import pairwise

import pytest
import torch
from drawn import computed, words
from torch import nn

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.figures.curves import draw_radial
from sterf_plugins.erf.figures.plot import draw, draw_all, draw_maps
from sterf_plugins.erf.figures.sheet import NARROW, WIDTH, Sheet


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (4, (1, 4)), (6, (2, 3)), (11, (3, 4))])
def test_few_and_many_layers_fit_the_page(count, shape):
    result = computed(count, num=2, layers=[str(i) for i in range(count)])
    figure = draw(result)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == count
    assert panels[0].get_gridspec().get_geometry() == shape
    assert figure.get_figwidth() <= WIDTH
    figure.canvas.draw()
    edge = figure.bbox.width
    for ax in panels:  # no title is cut, and none reaches into another panel's
        box = ax.title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= edge
    boxes = [ax.title.get_window_extent() for ax in panels]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_models_with_many_and_with_few_layers_take_few_rows():
    sheet = Sheet({"eight": 8, "five": 5, "three": 3}, [])
    assert sheet.grid.shape == (4, 5)
    assert [len(axes) for axes in sheet.panels.values()] == [8, 5, 3]
    assert [ax.axison for ax in sheet.grid.flat].count(False) == 4


@pytest.mark.slow
def test_long_names_are_shortened_at_their_beginning():
    model = nn.Sequential(*(nn.Sequential(nn.Identity()) for _ in range(5)))
    model = nn.ModuleDict({"a_backbone_with_a_long_name": model})
    model.forward = lambda x: model["a_backbone_with_a_long_name"](x)
    result = compute_erf(model, torch.randn(2, 1, 8, 8), [f"a_backbone_with_a_long_name.{i}.0" for i in range(5)])
    figure = draw(result)
    figure.canvas.draw()
    titles = [ax.title for ax in figure.axes if ax.get_title()]
    assert [t.get_text().split("\n")[0] for t in titles] == [f"…{i}.0, stride 1" for i in range(5)]
    boxes = [t.get_window_extent() for t in titles]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    figure = draw_radial({f"a.model_with_a_long_name(depth={i},mixer='srb')": result for i in range(4)})
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes)) and boxes[-1].x1 < figure.bbox.width


def test_a_signal_has_one_row():
    result = computed(layers=["0"])
    for fields in (result.spatial, result.spatial_error):
        fields["0"] = fields["0"][12:13]
    result.info["map_size"]["0"] = [1, 32]
    figures = draw_all({"": result})
    figures["maps"].canvas.draw()
    assert figures["maps"].axes[0].get_window_extent().height > 20
    assert [tick.get_text() for tick in figures["spectra"].axes[0].get_yticklabels()] == ["0"]
    text = words(figures["profiles"])
    assert (
        "centre row" in text
        and "centre column" not in text
        and "σ x" in text
        and "σ y" not in text.split("\nAcross")[0]
    )


def test_narrow_pages_have_fewer_panels_in_a_row():
    """Nor is a title cut or written over another panel's numbers, though the colour bar's label has two lines there."""
    result = computed(5, num=2, layers=[str(i) for i in range(5)])
    figure = draw_maps({"net": result}, page=NARROW)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert figure.get_figwidth() == NARROW and panels[0].get_gridspec().get_geometry() == (3, 2)
    assert not re.search(r"-\n|\n%", words(figure))
    figure.canvas.draw()
    titles = [ax.title.get_window_extent() for ax in panels]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height for box in titles)
    assert not any(box.overlaps(ax.bbox) for box in titles for ax in panels)
