"""Sequences in the folders of FE108 and VisEvent, and the training pairs that are drawn from them."""

import resource
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from tracking_data import make

from sterf_plugins.cli.console import is_mistake
from sterf_plugins.events.splits import in_list
from sterf_plugins.tracking.crops import Crop
from sterf_plugins.tracking.pairs import TrackingPairs, _empty, draw_frames, jittered
from sterf_plugins.tracking.recordings import first_frame
from sterf_plugins.tracking.results import read_attributes
from sterf_plugins.tracking.sequences import PUBLISHED, find_sequences, read_boxes, write_boxes


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


@pytest.mark.parametrize(("rows", "columns"), [(64, 3), (3, 64), (16, 16), (17, 20)])
def test_crops_of_which_little_is_in_the_image(rows, columns):
    """Those are drawn again of which nothing is left when PyTorch reduces them to the tokens, as the release does."""
    for start in (0, 9, 31, 58):
        outside = np.ones((64, 64), bool)
        outside[start : start + rows, start : start + columns] = False
        reduced = torch.nn.functional.interpolate(torch.from_numpy(outside)[None, None].float(), 4)
        assert _empty(Crop(outside, 1.0, outside)) == reduced.bool().all()


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
    with pytest.raises(ValueError, match=r"inter4_stack_3008 is missing: .* --layout fe108 --steps 4"):
        find_sequences(tmp_path, "fe108", "train", 4)
    sequences = find_sequences(tmp_path, "fe108", "train")
    with pytest.raises(ValueError, match="none of 1 sequences has 20 images and 5 boxes with an area"):
        TrackingPairs(sequences, 4)
    sequences[0].files[1][0].unlink()
    with pytest.raises(
        ValueError, match=r"0002_1.png is missing; delete .*inter1_stack_3008 and make the event images again"
    ):
        sequences[0].image(1)
    labels = tmp_path / "train" / "a" / "groundtruth_rect.txt"
    for text, message in (("1,2,3\n", "line 1 is '1,2,3'; it must be four finite numbers"), ("", "has no boxes")):
        labels.write_text(text)
        with pytest.raises(ValueError, match=message):
            find_sequences(tmp_path, "fe108", "train")


LABELS = "train/a/groundtruth_rect.txt"
LINE = "10,20,16,12\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LINE * 39,
            r"has 39 boxes, and .*inter1_stack_3008 has 40 images; there must be a line for each image, from 0001_1",
        ),
        (LINE * 43, r"has 43 boxes, and .* has 40 images, of which 0041_1.png is missing"),
        ("a,b,c,d\n", r"line 1 is 'a,b,c,d'; it must be four finite numbers x, y, w, h between commas, tabs or spaces"),
        ("10;20;16;12\n", r"line 1 is '10;20;16;12'; it must be four finite numbers"),
        ("10,20,16,12,\n", r"line 1 is '10,20,16,12,'; it must be"),
        ("1,1,inf,4\n", r"line 1 is '1,1,inf,4'; it must be four finite numbers"),
        ("1,1,1e300,4\n", r"line 1 is '1,1,1e300,4'; it must be four finite numbers"),
        ("0.1,0.2,0.3,0.2\n" * 40, r"has no number above 1; boxes are x, y, w, h in pixels, not shares of the image"),
        (
            "".join(f"{10 + i},20,{26 + i},32\n" for i in range(40)),
            r"17 of 40 boxes reach beyond .* look like two corners",
        ),
        (
            "".join(f"{4 * i},{i},16,12\n" for i in range(40)),
            r"the middles of 21 of 40 boxes lie outside the image of 80 x 60 pixels; they must be labels of this sensor",
        ),
        ("10,20,16,12\n".encode("utf-16"), r"is no text file in UTF-8"),
        (bytes(range(256)), r"is no text file in UTF-8"),
        (LINE * 20 + " \n" + LINE * 20, r"line 21 is empty, and there is a line for each image: write NaN,NaN,NaN,NaN"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, text, message):
    make(tmp_path, "fe108", "train", ["a"])
    (tmp_path / LABELS).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=message):
        find_sequences(tmp_path, "fe108", "train")


@pytest.mark.parametrize(
    "line", ["10,20,16,12\r\n", "\ufeff10 , 20 , 16 , 12\n", "10\t20\t16\t12\n", " 10 20  16 12 \n"]
)
def test_labels_of_other_programs(tmp_path, line):
    make(tmp_path, "fe108", "train", ["a"])
    (tmp_path / LABELS).write_bytes(line.encode() + LINE.encode() * 37 + b"NaN,NaN,NaN,NaN\n0,0,0,0\n\n")
    (sequence,) = find_sequences(tmp_path, "fe108", "train")
    assert sequence.boxes[:38].tolist() == [[10, 20, 16, 12]] * 38 and sequence.valid.sum() == 38
    pairs = TrackingPairs([sequence], 20, 32, 64)
    assert all(pair["box"].isfinite().all() for pair in pairs)


def test_lists_of_sequences(tmp_path):
    make(tmp_path, "fe108", "train", ["two words", "hünd", "a"], frames=3)
    names = tmp_path / "names.txt"
    names.write_bytes("\ufefftwo words\r\nhünd\r\n\r\n".encode())
    assert [s.name for s in find_sequences(tmp_path, "fe108", "train", names=names)] == ["two words", "hünd"]
    for given, message in (
        (["a", "a"], "`names` names the sequence 'a' twice"),
        ([], "`names` names no sequence; leave it out for all of"),
        (["a/"], "`names` names 'a/'; it must be the name of a folder in"),
        ([1], "`names` names 1; it must be the name of a folder in"),
        (["a", "b"], r"`names` names 'b', and there is no folder .*b"),
        (tmp_path, "which is no file; give one with a sequence's name a line"),
    ):
        with pytest.raises(ValueError, match=message):
            find_sequences(tmp_path, "fe108", "train", names=given)
    names.write_text("")
    with pytest.raises(ValueError, match=r"names.txt names no sequence"):
        find_sequences(tmp_path, "fe108", "train", names=names)
    names.write_text("a\na\n")
    with pytest.raises(ValueError, match=r"names.txt names the sequence 'a' twice"):
        find_sequences(tmp_path, "fe108", "train", names=names)
    with pytest.raises(ValueError, match="no sequence of layout 'visevent'; its sequences are of layout 'fe108'"):
        find_sequences(tmp_path, "visevent", "train")
    with pytest.raises(TypeError, match=r"`names` is 3 \(int\); it must be a list"):
        find_sequences(tmp_path, "fe108", "train", names=3)
    with pytest.raises(ValueError, match="`T` is 3; allowed: 1, 2, 4"):
        find_sequences(tmp_path, "fe108", "train", 3)


def test_names_of_macos(tmp_path):
    """There an accent is a sign behind its letter, and in lists that people write a part of it, or the other way round."""
    for one, other in (("hünd", "hu\u0308nd"), ("hu\u0308nd", "hünd")):
        root = tmp_path / str(len(one))
        make(root, "fe108", "train", [one], frames=3)
        assert [s.name for s in find_sequences(root, "fe108", "train", names=[other])] == [one]
        (root / "pair.txt").write_text(f"{other} 7\n", encoding="utf-8")
        assert first_frame(root, "fe108", one) == 7
        (root / "attributes.txt").write_text(f"{other} fast\n", encoding="utf-8")
        assert read_attributes(root / "attributes.txt", {one: np.ones((3, 4))}) == {"fast": [one]}
        (root / "list.txt").write_text(f"a/{other}.h5\n", encoding="utf-8")
        assert in_list([f"a/{one}"], root / "list.txt") == {f"a/{one}"}


def test_published_lists(tmp_path):
    lists = {name: path.read_text().split() for name, path in PUBLISHED.items()}
    counts = {
        "fe108-test": 32,
        "fe108-train": 76,
        "visevent-test": 320,
        "visevent-train": 500,
        "visevent-train-aedat4": 206,
    }
    assert {name: len(set(found)) for name, found in lists.items()} == counts
    assert all(len(found) == counts[name] for name, found in lists.items())
    for data in ("fe108", "visevent"):
        assert not set(lists[f"{data}-train"]) & set(lists[f"{data}-test"])
    assert set(lists["visevent-train-aedat4"]) < set(lists["visevent-train"])

    make(tmp_path, "fe108", "test", [*lists["fe108-test"], "mine"], frames=1)
    found = find_sequences(tmp_path, "fe108", "test", names="fe108-test")
    assert [sequence.name for sequence in found] == lists["fe108-test"]
    shutil.rmtree(tmp_path / "test" / "dove_mul222")
    with pytest.raises(ValueError, match="fe108-test names 'dove_mul222', and there is no folder"):
        find_sequences(tmp_path, "fe108", "test", names="fe108-test")
    with pytest.raises(
        ValueError, match=r"is 'fe108', which is no file; .* or a published list: fe108-test, fe108-train, "
    ):
        find_sequences(tmp_path, "fe108", "test", names="fe108")


def test_images_that_cannot_be_used(tmp_path):
    make(tmp_path, "fe108", "train", ["a"])
    folder = tmp_path / "train" / "a" / "inter1_stack_3008"
    sequences = find_sequences(tmp_path, "fe108", "train")
    for path in sorted(folder.iterdir())[1::2]:
        cv2.imwrite(str(path), np.zeros((30, 44, 3), np.uint8))
    other = r"_1.png has 44 x 30 pixels, and 0001_1.png 80 x 60; all images of a sequence must be of one size"
    for read in (lambda: list(TrackingPairs(sequences, 20, 32, 64)), lambda: list(sequences[0].images())):
        with pytest.raises(ValueError, match=other):
            read()
    for data in (b"", b"hello", cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1].tobytes()[:60]):
        (folder / "0002_1.png").write_bytes(data)
        with pytest.raises(
            ValueError, match=r"0002_1.png cannot be read as an image; delete .* and make the event images again"
        ):
            sequences[0].image(1)
    (folder / "0020_1.png").unlink()
    with pytest.raises(ValueError, match=r"40 boxes, and .* has 39 images, of which 0020_1.png is missing"):
        find_sequences(tmp_path, "fe108", "train")
    (folder / "0020_1.png").write_bytes(b"")
    (folder / "0040_1.png").rename(folder / "0000_1.png")
    with pytest.raises(ValueError, match=r"0040_1.png is missing; images are counted from 0001_1.png on"):
        find_sequences(tmp_path, "fe108", "train")


def test_parts_that_the_release_has_not_written(tmp_path):
    """A test reads the first part in their place, and a training draws another pair."""
    make(tmp_path, "fe108", "train", ["a"], T=2)
    (sequence,) = find_sequences(tmp_path, "fe108", "train", 2)
    sequence.files[5][1].unlink()
    first, second = sequence.image(5)
    assert np.array_equal(first, second) and first.std() > 0 and not np.array_equal(*sequence.image(6))
    for frame in range(40):
        if frame not in range(10, 30):
            sequence.files[frame][1].unlink(missing_ok=True)
    for pair in TrackingPairs([sequence], 10, 32, 64):
        numbers = [int(pair[key][0, 0].max()) for key in ("template", "search")]
        assert set(numbers) <= set(range(10, 30)) and numbers[0] < numbers[1]


def test_a_full_disk_leaves_nothing_and_is_no_fault_of_the_code(tmp_path):
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_boxes(tmp_path / "a.txt", np.ones((100, 4)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir()) and is_mistake(
        caught.value, test_a_full_disk_leaves_nothing_and_is_no_fault_of_the_code
    )
