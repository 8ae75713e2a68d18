"""The picture of the errors of trackers with covariant fields."""

import runpy
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "covariant_tracking.py"


def test_errors_have_names_points_and_plain_numbers():
    tool = runpy.run_path(str(TOOL), run_name="tool")
    figure = tool["draw_errors"]({"li-rf": [0.3, 0.4, 0.35], "relu8-uniform": [1.5, 1.45, 1.7]}, "events48")
    (axes,) = figure.axes
    figure.canvas.draw()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["leaky integrators\nrf", "ReLU,\n8 frames\nuniform"]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in points] == [[0.3, 0.4, 0.35], [1.5, 1.45, 1.7]]
    low, high = axes.get_ylim()
    shown = [t.get_text() for t in axes.get_yticklabels() if low < t.get_position()[1] < high]
    assert shown == ["0.2", "0.5", "1", "2"] and "3 seeds" in figure.get_supxlabel()
