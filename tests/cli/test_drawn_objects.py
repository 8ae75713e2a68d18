"""Labels on pictures of detections."""

import itertools

import numpy as np

from sterf_plugins.cli.drawn_objects import Drawn, common_area, draw_objects, label_place


def test_labels_stay_inside_and_off_each_other():
    boxes = [(10, 5, 40, 30), (12, 8, 40, 30), (70, 2, 28, 30), (60, 70, 39, 29), (0, 90, 20, 10)]
    taken = []
    for box in boxes:
        taken.append(label_place(box, (36, 12), (100, 100), taken))
    assert all(min(place) >= 0 and max(place) <= 100 for place in taken)
    assert sum(common_area(a, b) for a, b in itertools.combinations(taken, 2)) == 0


def test_a_label_is_black_on_the_colour_of_its_class():
    mask = np.zeros((60, 60), bool)
    mask[30:50, 10:40] = True
    picture = draw_objects(
        np.zeros((60, 60, 3), np.uint8), [Drawn(mask, (10, 30, 30, 20), "disc 0.97", (230, 80, 90))], 4
    )
    assert picture.shape == (240, 240, 3)
    background = (picture[:119] == (230, 80, 90)).all(-1)  # above the object: the label's
    rows, columns = np.flatnonzero(background.any(1)), np.flatnonzero(background.any(0))
    assert len(rows) >= 20 and len(columns) >= 80  # pixels of a label that can be read
    inside = picture[rows[0] : rows[-1], columns[0] : columns[-1]]
    assert (inside.sum(-1) < 60).mean() > 0.1  # letters
