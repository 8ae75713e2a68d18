"""Event images that are made from recordings while a data set is read, and what is refused."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from torch.utils.data import DataLoader

from sterf_plugins.cli.erf.tracker_inputs import tracker_inputs
from sterf_plugins.cli.loading import Loaded
from sterf_plugins.events import Events, Frame, gtp, open_recording
from sterf_plugins.tracking import SDTrack
from sterf_plugins.tracking.fields import labelled_pairs
from sterf_plugins.tracking.pairs import TrackingPairs
from sterf_plugins.tracking.recordings import boundaries, find_recorded_sequences, labels_beside, with_events
from sterf_plugins.tracking.sd_track_openmmlab import tracking_dataset

INTERVAL, FRAMES, SIZE = 10_000, 30, (40, 60)
SMALL = dict(embed_dims=(8, 8, 16, 16), num_heads=2)


def write(folder: Path, seed: int, **columns) -> Path:
    """A sequence in FE108's folders: a square that moves to the right, and noise, in an HDF5 file without frames."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    t = np.sort(rng.integers(0, FRAMES * INTERVAL, 6000))
    x, y = 10 + t // 15_000 + rng.integers(0, 8, len(t)), 12 + rng.integers(0, 8, len(t))
    noise = rng.random(len(t)) < 0.2
    x[noise], y[noise] = rng.integers(0, SIZE[1], noise.sum()), rng.integers(0, SIZE[0], noise.sum())
    with h5py.File(folder / "events.h5", "w") as file:
        for name, values in (dict(t=t, x=x, y=y, p=rng.integers(0, 2, len(t))) | columns).items():
            file[f"events/{name}"] = values
        file.attrs.update(height=SIZE[0], width=SIZE[1])
    start = 10 + np.arange(FRAMES) * INTERVAL / 15_000
    boxes = np.stack([start, *(np.full(FRAMES, n) for n in (12.0, 8.0, 8.0))], 1)
    np.savetxt(folder / "groundtruth_rect.txt", boxes, "%.3f", ",")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("T", [1, 4])
def test_images_are_those_of_the_generator_in_any_order_and_process(tmp_path, T):
    for seed, name in enumerate(("bike", "two words", "hünd")):
        write(tmp_path / "train" / name, seed)
    sequences = find_recorded_sequences(tmp_path, "fe108", "train", T, interval=INTERVAL)
    assert [s.name for s in sequences] == ["bike", "hünd", "two words"]
    recording = open_recording(tmp_path / "train" / "hünd" / "events.h5")
    first = recording.events().t[0]
    parts = [i.pixels for i in gtp(recording, first + INTERVAL * np.arange(FRAMES + 1), T)]
    wanted = np.stack(parts).reshape(FRAMES, T, *SIZE, 3)
    wanted = wanted if T > 1 else wanted[:, 0]
    assert all(np.array_equal(a, b) for a, b in zip(sequences[1].images(), wanted, strict=True))
    for frame in (17, 3, 29, 17, 0):
        assert np.array_equal(sequences[1].image(frame), wanted[frame]) and wanted[frame].std() > 0
    pairs = TrackingPairs(sequences, 6, 32, 64, seed=3)
    here = [pairs[i] for i in range(6)]
    for workers in (0, 2):
        loaded = list(DataLoader(TrackingPairs(sequences, 6, 32, 64, seed=3), num_workers=workers))
        assert all(torch.equal(a["search"][0], b["search"]) for a, b in zip(loaded, here, strict=True))
    assert pickle.loads(pickle.dumps(sequences[0])).image(4).any()  # as worker processes that are started anew get it
    scratch = sequences[0].scratch.folder
    assert [p.stat().st_size > 1000 for p in scratch.iterdir()] == [True] * 3
    del sequences, pairs
    assert not scratch.exists()
    assert sorted(p.name for p in (tmp_path / "train" / "bike").iterdir()) == ["events.h5", "groundtruth_rect.txt"]


@pytest.mark.parametrize("T", [1, 4])
def test_inputs_from_a_recording_without_labels_have_trajectories(tmp_path, T):
    folder = write(tmp_path / "bike", 0)
    (folder / "groundtruth_rect.txt").unlink()
    tracker = loaded(SDTrack(SMALL, variant=f"{T}x{4 // T}"))
    pairs = tracker_inputs(str(folder / "events.h5"), tracker, 2, 0)
    assert len(pairs) == 2
    for pair in pairs:
        regions = pair["search"].reshape(T, 3, 256, 256)
        assert regions.amax((2, 3)).min() >= 30  # each part has trajectory, negative and positive events
    larger = loaded(tracker.network, sensor=(400, 600))
    for model, size in ((larger, ""), (tracker, "@400x600")):
        (pair,) = tracker_inputs(f"{folder / 'events.h5'}{size}", model, 1, 0)
        assert not pair["template"].any()  # events are at the top left, and not in the middle


def test_inputs_from_a_labelled_recording_without_frames(tmp_path):
    """The config's interval says of which images the labels are."""
    folder = write(tmp_path / "test" / "bike", 0)
    options = dict(images="events", interval=INTERVAL, layout="fe108", data_root=str(tmp_path))
    tracker = loaded(SDTrack(SMALL), **options)
    found = tracker_inputs(str(folder / "events.h5"), tracker, 3, 0)
    wanted = labelled_pairs(find_recorded_sequences(tmp_path, "fe108", "test", interval=INTERVAL), 3, (128, 256))
    assert len(found) == len(wanted) == 3
    for pair, same in zip(found, wanted, strict=True):
        assert pair["search"].amax() >= 30
        assert torch.equal(pair["template"], same["template"]) and torch.equal(pair["search"], same["search"])
    with pytest.raises(
        ValueError, match=r"interval=40_000 of a data set, which a config has in test_dataloader.dataset"
    ):
        tracker_inputs(str(folder / "events.h5"), loaded(tracker.network), 3, 0)


def test_labels_beside_a_link(tmp_path):
    """Of a link in the sequence's folder to a file on another disk, and of a link elsewhere to the file in that folder."""
    folder, disk = write(tmp_path / "set" / "train" / "bike", 0), tmp_path / "disk"
    disk.mkdir()
    boxes = find_recorded_sequences(tmp_path / "set", "fe108", "train", interval=INTERVAL)[0].boxes
    (disk / "bike.h5").symlink_to(folder / "events.h5")
    assert np.array_equal(labels_beside(open_recording(disk / "bike.h5"), INTERVAL)[0], boxes)
    (folder / "events.h5").rename(disk / "large.h5")
    (folder / "events.h5").symlink_to(disk / "large.h5")
    assert np.array_equal(labels_beside(open_recording(folder / "events.h5"), INTERVAL)[0], boxes)
    pairs = tracker_inputs(str(folder / "events.h5"), loaded(SDTrack(SMALL), interval=INTERVAL, images="events"), 1, 0)
    wanted = labelled_pairs(
        find_recorded_sequences(tmp_path / "set", "fe108", "train", interval=INTERVAL), 1, (128, 256)
    )
    assert torch.equal(pairs[0]["search"], wanted[0]["search"])


def test_what_cannot_be_made(tmp_path):
    folder = write(tmp_path / "train" / "bike", 0)
    for option in (dict(interval=3), dict(sensor=(40, 60))):
        with pytest.raises(ValueError, match="`interval` and `sensor` are of images='events'"):
            tracking_dataset(str(tmp_path), **option)
    with pytest.raises(ValueError, match=r"`sensor` is \(40,\); it must be \(height, width\)"):
        find_recorded_sequences(tmp_path, "fe108", "train", sensor=(40,))
    (sequence,) = find_recorded_sequences(tmp_path, "fe108", "train", interval=INTERVAL, sensor=(90, 120))
    assert sequence.image(2).shape == (90, 120, 3) and sequence.image(2)[:, 60:].max() == 0 < sequence.image(2).max()
    (sequence,) = find_recorded_sequences(tmp_path, "fe108", "train")
    with pytest.raises(ValueError, match=r"events.h5 has no frames beside its events"):
        sequence.image(0)
    (tmp_path / "pair.txt").write_text("bike two\n")
    with pytest.raises(ValueError, match=r"pair.txt has 'two' for 'bike'; it must be the number of a frame"):
        find_recorded_sequences(tmp_path, "fe108", "train")
    recording = open_recording(folder / "events.h5")
    (tmp_path / "pair.txt").write_text("bike 3\nother 0\n")
    with pytest.raises(
        ValueError, match=r"pair.txt says that the labels of 'bike' begin with frame 3, and with an interval"
    ):
        find_recorded_sequences(tmp_path, "fe108", "train", interval=INTERVAL)
    for line in ("bike 0", "other 3"):
        (tmp_path / "pair.txt").write_text(f"{line}\n")
        assert find_recorded_sequences(tmp_path, "fe108", "train", interval=INTERVAL)
    late = replace(recording, pictures=lambda: iter(FRAME_TIMES))
    with pytest.raises(ValueError, match="frame 2 is at 20 µs, and the one before at 30"):
        boundaries(late, 3)
    times = np.array([10**9, 2 * 10**9])
    with pytest.raises(ValueError, match="has no event from 1000000000 to 2000000000 µs, the times of its images"):
        list(with_events(gtp(recording, times), recording, times))
    start = int(recording.events().t[0])
    times = start + 10**9 * np.arange(5)
    with pytest.raises(ValueError, match=r"has no event in the last 3 of 4 images, from .* give a shorter interval"):
        list(with_events(gtp(recording, times), recording, times))
    labels = folder / "groundtruth_rect.txt"
    (tmp_path / "pair.txt").write_text("bike 0\n")
    whole = labels.read_text()
    for line, message in (("0.1,0.2,0.3,0.4\n", "no number above 1; boxes are x, y, w, h in pixels, not shares"),
                          ("10,10,55,35\n", "look like two corners")):  # fmt: skip
        labels.write_text(line * 40)
        for read in (lambda: find_recorded_sequences(tmp_path, "fe108", "train"), lambda: labels_beside(recording)):
            with pytest.raises(ValueError, match=rf"groundtruth_rect.txt.* {message}"):
                read()
    labels.write_text(whole)
    (tmp_path / "pair.txt").unlink()
    shutil.copy(folder / "events.h5", folder / "denoised.h5")
    with pytest.raises(ValueError, match=r"bike are of its recording events.h5; give that one, not denoised.h5"):
        tracker_inputs(str(folder / "denoised.h5"), loaded(SimpleNamespace(T=1)), 1, 0)
    (folder / "events.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bike has 2 recordings events.\* or bike.\*"):
        find_recorded_sequences(tmp_path, "fe108", "train")
    (folder / "events.npz").unlink()
    (folder / "events.h5").unlink()
    with pytest.raises(ValueError, match="bike has 0 recordings"):
        find_recorded_sequences(tmp_path, "fe108", "train")


def loaded(network, **dataset):
    """A tracker as ``load_model`` gives it, whose config says this of the test's data set."""
    config = ConfigDict(model=dict(type="sterf_plugins.SDTrack"), test_dataloader=dict(dataset=dataset))
    return Loaded("tracker", SimpleNamespace(network=network), (256, 256), (0.0,), (1.0,), config=config)


FRAME_TIMES = [Frame(t, 0, np.zeros((1, 1), np.uint8)) for t in (10, 30, 20, 40)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            dict(t=np.arange(6000) / 1e6),
            r"event 1 has t=1e-06; it must be whole microseconds: seconds must be multiplied by 1,000,000",
        ),
        (dict(t=np.arange(6000) + 17 * 10**17), r"event 0 has t=17.*; .* nanoseconds divided by 1,000"),
        (dict(t=(np.arange(6000) + 16e14).astype(np.float32)), r"t is of type float32, .* 16,777,216 on are rounded"),
        (dict(x=np.full(6000, 1.5)), r"event 0 has x=1.5; it must be a column, a whole number from 0 to 65,535"),
        (dict(x=np.arange(6000) - 7), r"event 0 has x=-7; it must be a column"),
        (dict(x=np.full(6000, np.nan)), r"event 0 has x=nan"),
        (dict(p=np.full(6000, 7)), r"event 0 has p=7; it must be a polarity, 0 or 1, or -1 or 1"),
        (
            dict(p=np.ones(5990)),
            r"t, x, y, p have the shapes .*; each must have one axis, and an entry for each event",
        ),
        (dict(t=np.arange(5990)), r"t, x, y, p have the shapes \(5990,\)"),
        (dict(t=np.arange(6000).reshape(2, -1)), r"each must have one axis"),
        (dict(x=np.full(6000, b"a")), r"x has entries of type \|S1; they must be numbers"),
        (dict(y=np.full(6000, 40)), r"event 0 has y=40, outside the sensor of 60 columns and 40 rows"),
    ],
)
@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_columns_that_are_no_events(tmp_path, columns, message, suffix):
    path = write(tmp_path / "a", 0, **columns) / "events.h5"
    if suffix == ".npz":
        with h5py.File(path) as file:
            arrays = {name: values[()].astype(values.dtype.str) for name, values in file["events"].items()}
        path = path.with_suffix(".npz")
        np.savez(path, **arrays, height=SIZE[0], width=SIZE[1])
    with pytest.raises(ValueError, match=message):
        open_recording(path).events()


def test_polarities_of_minus_one(tmp_path):
    path = write(tmp_path / "a", 0, p=np.tile([-1.0, 1.0], 3000)) / "events.h5"
    events = open_recording(path).events()
    assert isinstance(events, Events) and events.p[:4].tolist() == [0, 1, 0, 1]


def test_arrays_of_objects_and_damaged_ones(tmp_path):
    columns = {name: np.arange(20_000) for name in "txyp"}
    np.savez_compressed(tmp_path / "objects.npz", **columns | dict(t=np.array([None] * 20_000)))
    np.savez_compressed(tmp_path / "damaged.npz", **columns)
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[2000:3000] = bytes(1000)
    (tmp_path / "damaged.npz").write_bytes(data)
    np.savez(tmp_path / "plain.npz", **columns)
    data = (tmp_path / "plain.npz").read_bytes()
    (tmp_path / "beginning.npz").write_bytes(b"?" + data[1:])
    (tmp_path / "description.npz").write_bytes(data.replace(b",), }", b",), (", 1))
    for name in ("objects", "damaged", "beginning", "description"):
        with pytest.raises(ValueError, match=rf"{name}.npz cannot be read as an event file"):
            open_recording(tmp_path / f"{name}.npz")


def test_tables_of_other_programs(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefft,x,y,p\r\n5,1,2,-1\r\n9,1,2,1\r\n".encode())
    assert [column.tolist() for column in open_recording(tmp_path / "a.csv").events()] == [
        [5, 9],
        [1, 1],
        [2, 2],
        [0, 1],
    ]
    for text in (
        "t;x;y;p\n5;1;2;1\n",
        '"t"\t"x"\t"y"\t"p"\n"5"\t"1"\t"2"\t"1"\n',
        "# t,x,y,p\n5,1,2,1\n",
        "t x y p\n5 1 2 1\n",
        "      t  x y   p\n      5  1 2   1\n",
    ):
        (tmp_path / "b.csv").write_text(text)
        assert [column.tolist() for column in open_recording(tmp_path / "b.csv").events()] == [[5], [1], [2], [1]]
    for text, message in (
        ("5,1,2,1\n", "has '5', '1', '2', and no events' t, x, y, p. The first line must name the columns"),
        ("t,x,y,p,X\n5,1,2,1,9\n", "has 'x' and 'x', each of which may be x; keep one"),
        ("t,timestamp,x,y,p\n5,500,1,2,1\n", "has 't' and 'timestamp', each of which may be t"),
        ("t,x,y,p\n5,0,1,2,1\n", "has 4 columns, and the line '5,0,1,2,1'"),  # a comma as the decimal point
        ("t,x,y,p\n9007199254740993,1,2,1\n", "event 0 has t=9007199254740992"),
        ("t,x,y,p\n5,1,2,True\n", "could not convert string 'True' .* must be numbers, p of them 0 or 1, or -1 or 1"),
        ("t,x,y,p\n5,1,2,nan\n", "event 0 has p=nan; it must be a polarity"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_recording(tmp_path / "b.csv").events()


def test_names_that_file_systems_make(tmp_path):
    """Endings in capitals, a folder's name with spaces and dots, hidden folders, a link: found as others are, or left out."""
    for name, file in (("a", "events.H5"), ("b 1.0 ü", "b 1.0 ü.h5"), (".trash", "events.h5")):
        folder = tmp_path / "data/train" / name
        (write(folder, 0) / "events.h5").rename(folder / file)
    (tmp_path / "data/train/c").symlink_to(tmp_path / "data/train/a")
    found = find_recorded_sequences(tmp_path / "data", "fe108", "train", interval=10_000)
    assert [sequence.name for sequence in found] == ["a", "b 1.0 ü", "c"]
    assert np.array_equal(found[0].image(2), found[2].image(2))
