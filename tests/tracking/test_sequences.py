"""Sequences in the folders of FE108 and VisEvent, and the training pairs that are drawn from them."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from tracking_data import make

from sterf_plugins.tracking.pairs import TrackingPairs, draw_frames, jittered
from sterf_plugins.tracking.sequences import find_sequences, read_boxes, write_boxes


@pytest.mark.parametrize("layout", ["fe108", "visevent"])
@pytest.mark.parametrize("T", [1, 2])
def test_a_data_set(tmp_path, layout, T):
    boxes = make(tmp_path, layout, "train", ["bike1", "dog_2"], T=T)
    (tmp_path / "train" / "notes").mkdir()
    sequences = find_sequences(tmp_path, layout, "train", T)
    assert [s.name for s in sequences] == ["bike1", "dog_2"]
    image = sequences[1].image(5)
    assert image.shape == ((60, 80, 3) if T == 1 else (2, 60, 80, 3))
    last = image if T == 1 else image[1]
    assert (last[..., 0] == 5).all() and last[25, 20, 2] == 100 + T - 1  # the trajectory first
    assert np.array_equal(sequences[0].boxes, boxes) and sequences[0].valid.sum() == 39
    (tmp_path / "train" / "test.txt").write_text("dog_2\n")
    assert [s.name for s in find_sequences(tmp_path, layout, "train", T)] == ["dog_2"]
    assert [s.name for s in find_sequences(tmp_path, layout, "train", T, ["bike1"])] == ["bike1"]


def test_pairs(tmp_path):
    make(tmp_path, "fe108", "train", ["a", "b"])
    pairs = TrackingPairs(find_sequences(tmp_path, "fe108", "train"), 6, 32, 64, seed=3)
    first = [pairs[i] for i in range(6)]
    for pair in first:
        assert pair["template"].shape == (3, 32, 32) and pair["search"].shape == (3, 64, 64)
        assert pair["template"][0].max() < pair["search"][0].max()  # the template is earlier
        x, y, w, h = (64 * pair["box"]).tolist()
        rows, columns = np.nonzero(pair["search"][2].numpy() > 50)
        assert abs(columns.min() - x) < 2.5 and abs(rows.max() - y - h) < 2.5 and 0 < w < 64
    for workers in (0, 2):  # the same pairs, whoever draws them
        loaded = [batch["search"][0] for batch in DataLoader(pairs, num_workers=workers)]
        assert all(torch.equal(a, b["search"]) for a, b in zip(loaded, first, strict=True))
    pairs.set_epoch(1)
    assert not torch.equal(pairs[0]["search"], first[0]["search"])


def test_frames_and_jitter_are_drawn_as_published():
    rng = np.random.default_rng(0)
    valid = np.ones(600, bool)
    valid[100:400] = False
    drawn = np.array([draw_frames(valid, rng) for _ in range(4000)])
    gap = drawn[:, 1] - drawn[:, 0]
    assert valid[drawn].all() and gap.min() == 1 and drawn[:, 0].max() == 598
    assert 190 < gap.max() < 260  # wider than 200 where there is no label nearer
    assert draw_frames(np.eye(1, 600, 599, dtype=bool)[0] | np.eye(1, 600, dtype=bool)[0], rng) == (0, 599)
    box = np.array([50.0, 40, 20, 10])
    boxes = np.array([jittered(box, rng) for _ in range(4000)])
    sizes = np.log(boxes[:, 2:] / box[2:])
    offsets = (boxes[:, :2] + boxes[:, 2:] / 2 - [60, 45]) / np.sqrt(boxes[:, 2:].prod(1, keepdims=True))
    assert sizes.std() == pytest.approx(0.25, rel=0.05) and abs(sizes.mean()) < 0.01
    assert np.abs(offsets).max() == pytest.approx(1.5, rel=0.01) and offsets.std() == pytest.approx(
        3 / 12**0.5, rel=0.03
    )


def test_result_files(tmp_path):
    boxes = np.array([[1.75, 2.5, 3, 4], [-1.5, 0.25, 10, 11]])
    write_boxes(tmp_path / "a.txt", boxes)
    assert np.array_equal(read_boxes(tmp_path / "a.txt"), boxes)
    write_boxes(tmp_path / "b.txt", boxes, integers=True)
    assert (tmp_path / "b.txt").read_text() == "1\t2\t3\t4\n-1\t0\t10\t11\n"


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="is no folder; a data set of layout 'fe108'"):
        find_sequences(tmp_path, "fe108", "train")
    make(tmp_path, "fe108", "train", ["a"], frames=3)
    with pytest.raises(ValueError, match=r"inter4_stack_3008 is missing: make the event images"):
        find_sequences(tmp_path, "fe108", "train", 4)
    sequences = find_sequences(tmp_path, "fe108", "train")
    with pytest.raises(ValueError, match="none of 1 sequences has 20 images and 5 boxes with an area"):
        TrackingPairs(sequences, 4)
    sequences[0].files[1][0].unlink()
    with pytest.raises(ValueError, match=r"0002_1.png is missing; make the event images again"):
        sequences[0].image(1)
    labels = tmp_path / "train" / "a" / "groundtruth_rect.txt"
    for text, message in (("1,2,3\n", "line 1 is '1,2,3'; it must be four numbers"), ("", "has no boxes")):
        labels.write_text(text)
        with pytest.raises(ValueError, match=message):
            find_sequences(tmp_path, "fe108", "train")
