"""Folders of event recordings as a data set: formats, layouts, splits, and what goes wrong."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.utils.data import DataLoader

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.events import EventFolder, Events, collate_time_first, open_recording, write_recording
from sterf_plugins.events.representations import equal_times, histogram
from sterf_plugins.events.splits import by_number, by_seed, in_natural_order


def some_events(seed: int, count: int = 200, size=(24, 32)) -> Events:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 100_000, count))
    return Events.of(t, rng.integers(0, size[1], count), rng.integers(0, size[0], count), rng.integers(0, 2, count))


@pytest.fixture
def root(tmp_path):
    """Two classes with five recordings each, in three formats; one of them in a folder of its own."""
    for label in ("10", "2"):
        for i in range(5):
            events = some_events(5 * int(label) + i)
            path = tmp_path / label / ("deep/" if i == 4 else "") / f"r{i}.{('npz', 'h5', 'csv')[i % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".csv":
                events.t[-1], events.x[-1], events.y[-1] = 100_000, 31, 23  # a CSV file does not say its sensor
                np.savetxt(path, np.stack(events, 1), "%d", ",", header="t,x,y,p", comments="")
            else:
                write_recording(path, events, (24, 32))
    return tmp_path


def test_samples_are_those_of_the_files(root):
    data = EventFolder(root, T=4)
    assert data.classes == ["2", "10"] and len(data) == 10 and data.size == (24, 32) and data.channels == 2
    assert data.filenames()[:5] == ["2/deep/r4.h5", "2/r0.npz", "2/r1.h5", "2/r2.csv", "2/r3.npz"]
    for (path, label), (x, y) in zip(data.samples, data, strict=True):
        events = open_recording(path).events()
        assert y == label == data.classes.index(path.relative_to(root).parts[0])
        assert x.shape == (4, 2, 24, 32) and x.dtype == torch.float32 and x.sum() == events.number
        assert np.array_equal(x, histogram(events, (24, 32), equal_times(events.t[0], events.t[-1] + 1, 4)))
    counts = EventFolder(root, T=4, by="count")[0][0].sum((1, 2, 3))
    assert counts.max() - counts.min() <= 4 and counts.sum() == 200
    assert EventFolder(root, T=4, kind="voxel_grid", bins=3)[0][0].shape == (4, 3, 24, 32)


@pytest.mark.slow
def test_batches_go_into_networks_with_time(root):
    from torchvision.transforms.v2 import Resize

    data = EventFolder(root, "train", T=3, transform=Resize((32, 32)))
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=2, collate_fn=collate_time_first)
    model = timm.create_model(
        "spikformer_8_384", in_chans=data.channels, num_classes=len(data.classes), depth=1, dim=16, num_heads=2
    )
    batches = list(loader)
    assert [x.shape for x, _ in batches] == [(3, 4, 2, 32, 32)] * 2 and batches[0][1].dtype == torch.int64
    assert model(batches[0][0]).shape == (4, 2)
    # A network without time takes the steps as channels.
    flat = EventFolder(root, T=3, transform=lambda x: x.flatten(0, 1))
    x, _ = next(iter(DataLoader(flat, batch_size=4)))
    assert timm.create_model("sdtv3_nano_srb", in_chans=6, num_classes=2)(x[..., :24]).shape == (4, 2)


def test_targets_of_any_shape_are_collated():
    """Numbers, whole or not, and shares of the classes; samples that a transform has cut in several sizes are named."""
    x = torch.zeros(3, 2, 8, 8)
    assert collate_time_first([(x, 1), (x, 2)])[1].equal(torch.tensor([1, 2]))
    assert collate_time_first([(x, 0.5), (x, 1.5)])[1].equal(torch.tensor([0.5, 1.5]))
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert collate_time_first([(x, share) for share in shares])[1].equal(shares)
    with pytest.raises(ValueError, match=r"the samples of a batch have the shapes \(2, 2, 8, 8\), \(3, 2, 8, 8\)"):
        collate_time_first([(x, 0), (x[:2], 1)])


def test_timms_own_loader_takes_it(root):
    from timm.data import create_loader

    options = dict(mean=(0.0, 0.0), std=(1.0, 1.0), use_prefetcher=False, num_workers=0, collate_fn=collate_time_first)
    loader = create_loader(EventFolder(root, T=3), (2, 16, 16), 4, is_training=True, no_aug=True, **options)
    assert [x.shape for x, _ in loader] == [(3, 4, 2, 16, 16)] * 2
    x, y = next(
        iter(create_loader(EventFolder(root, T=3), (2, 24, 32), 10, crop_pct=1.0, crop_mode="squash", **options))
    )
    assert x.shape == (3, 10, 2, 24, 32) and y.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(x[:, 0], EventFolder(root, T=3)[0][0])


def test_the_split_by_seed_is_the_same_everywhere():
    names = [f"{label}/{i}" for label in "ab" for i in range(10)]
    testing = by_seed(names, 0.2, seed=0)
    assert testing == by_seed(names[::-1], 0.2, seed=0) == {"a/2", "a/7", "b/2", "b/6"}
    assert by_seed(names, 0.2, seed=1) != testing
    assert len(by_seed(names, 0.01)) == 2 and len(by_seed(names, 0.99)) == 18
    with pytest.raises(ValueError, match="class c has one recording"):
        by_seed([*names, "c/1"])


def test_splits_are_disjoint_and_whole(root):
    train, test, everything = (EventFolder(root, split, T=2) for split in ("train", "test", None))
    assert len(test) == 2 and sorted(train.samples + test.samples) == sorted(everything.samples)
    assert {target for _, target in test.samples} == {0, 1} and train.classes == test.classes
    (root / "some.txt").write_text("2/r0\n\n10/deep/r4.h5\n")
    assert EventFolder(root, root / "some.txt", T=2).filenames() == ["2/r0.npz", "10/deep/r4.h5"]


def test_natural_order_and_split_by_number():
    assert in_natural_order(["a10", "a2", "10", "9", "b", "²"]) == ["9", "10", "a2", "a10", "b", "²"]
    names = [f"cat/cifar10_cat_{i}" for i in (3, 99, 100, 999)]
    assert by_number(names) == set(names[:2])
    with pytest.raises(ValueError, match="cat/kitty does not end with a number"):
        by_number(["cat/kitty"])


def test_folders_of_splits(tmp_path):
    for name in ("train/a/0", "train/b/0", "test/b/0", "train/b/1"):
        write_recording(tmp_path / f"{name}.npz", some_events(len(name)), (24, 32))
    train, test = (EventFolder(tmp_path, split, T=2) for split in ("train", "test"))
    assert [t for _, t in train.samples] == [0, 1, 1] and [t for _, t in test.samples] == [1]
    assert test.classes == ["a", "b"] and len(EventFolder(tmp_path, T=2)) == 4
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "B")
    with pytest.raises(ValueError, match=r"test has the class B, which is not among those for training \(a, b\)"):
        EventFolder(tmp_path, "train", T=2)


def test_a_split_without_recordings_is_an_error(tmp_path):
    write_recording(tmp_path / "test" / "cars" / "0.npz", some_events(0), (24, 32))
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"none of 1 recordings in .* is of `split` 'train'; give another one"):
        EventFolder(tmp_path, "train")


def test_folders_of_splits_are_not_taken_for_classes(tmp_path):
    """Two "classes" would be learnt, which are the same."""
    for name in ("Train/a/0", "Train/b/0", "Test/a/0", "Test/b/0"):
        write_recording(tmp_path / f"{name}.npz", some_events(len(name)), (24, 32))
    for split in ("train", None):
        with pytest.raises(ValueError, match=r"are called Test, Train, as splits are.*rename them: train and test"):
            EventFolder(tmp_path, split)
    write_recording(tmp_path / "bus" / "0.npz", some_events(0), (24, 32))  # of vehicles "train" is a class
    assert EventFolder(tmp_path, T=2).classes == ["Test", "Train", "bus"]


def test_no_folder_of_a_split_is_left_out_in_silence(tmp_path):
    for name in ("train/a/0", "train/b/0", "val/a/0", "val/b/0"):
        write_recording(tmp_path / f"{name}.npz", some_events(len(name)), (24, 32))
    with pytest.raises(ValueError, match=r"for all recordings, and .*val is none of the folders that are read"):
        EventFolder(tmp_path, T=2)
    with pytest.raises(ValueError, match=r"no folder .*test of classes .* If val is for testing, rename it: test"):
        EventFolder(tmp_path, "test", T=2)
    assert len(EventFolder(tmp_path, "train", T=2)) == 2


def test_n_cars(tmp_path):
    """Files of the event type "2d", whose sizes differ with their events."""
    for i, name in enumerate(("train/cars", "train/background", "test/cars", "test/background")):
        events = some_events(i, size=(100 - i, 120 - i))
        words = np.stack([events.t, events.x | events.y << 14 | events.p << 28], 1).astype("<u4")
        path = tmp_path / f"n-cars_{name}" / f"obj_{i:06d}_td.dat"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"% Data file\n% Version 2\n" + bytes((0, 8)) + words.tobytes())
    train, test = (EventFolder(tmp_path, split, T=2, layout="n_cars") for split in ("train", "test"))
    assert train.classes == ["background", "cars"] and len(train) == len(test) == 2
    assert train[0][0].shape == (2, 2, 100, 120) and train[0][0].sum() == 200
    with pytest.raises(
        ValueError, match=r"n-cars_test, n-cars_train, as splits are.*Or give the `layout` of .* n_cars"
    ):
        EventFolder(tmp_path, sensor=(100, 120))
    shutil.rmtree(tmp_path / "n-cars_test")
    assert len(EventFolder(tmp_path, "train", T=2, layout="n_cars")) == 2
    with pytest.raises(ValueError, match=r"there is no folder .*n-cars_test of classes"):
        EventFolder(tmp_path, "test", T=2, layout="n_cars")


def test_dvs128_gesture(tmp_path):
    """AEDAT 3.1 files with a table of labels and times, and two lists of files; SpikingJelly converts them."""
    source = tmp_path / "extract" / "DvsGesture"
    source.mkdir(parents=True)
    events = some_events(0, 3000, (128, 128))
    data = np.stack([events.x << 17 | events.y << 2 | events.p << 1 | 1, events.t], 1).astype("<u4")
    head = struct.pack("<HHIIIIII", 1, 0, 8, 4, 0, len(data), len(data), len(data))
    for split, user in (("train", "user01_led"), ("test", "user24_led")):
        (source / f"trials_to_{split}.txt").write_text(f"{user}.aedat\n")
        (source / f"{user}.aedat").write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head + data.tobytes())
        rows = "".join(f"{i + 1},{i * 9000},{(i + 1) * 9000}\n" for i in range(11))
        (source / f"{user}_labels.csv").write_text("class,startTime_usec,endTime_usec\n" + rows)
    whole = (source / "user24_led.aedat").read_bytes()
    count = int(np.searchsorted(events.t, 90_000))  # a file that was cut behind the tenth of its trials
    cut = struct.pack("<HHIIIIII", 1, 0, 8, 4, 0, count, count, count)
    (source / "user24_led.aedat").write_bytes(whole[: -len(head) - data.nbytes] + cut + data[:count].tobytes())
    with pytest.raises(ValueError, match=r"there are no events for test/10/user24_led_0.npz.*unpack the download"):
        EventFolder(tmp_path, layout="dvs128_gesture")
    for length in (8 * 1000, len(data) * 8 + 4, 4):  # in the middle of a trial, of the packet's head, and of an event
        (source / "user24_led.aedat").write_bytes(whole[:-length])
        with pytest.raises(ValueError, match=r"user24_led.aedat is cut off, in the middle of a packet; unpack"):
            EventFolder(tmp_path, layout="dvs128_gesture")
        assert not (tmp_path / "events_np").exists()
    (source / "user24_led.aedat").write_bytes(whole)
    train, test = (EventFolder(tmp_path, split, T=4, layout="dvs128_gesture") for split in ("train", "test"))
    assert train.classes == [str(i) for i in range(11)] and len(train) == len(test) == 11
    part = events.cut(*np.searchsorted(events.t, [90_000, 99_000]))
    assert np.array_equal(train[10][0], histogram(part, (128, 128), equal_times(part.t[0], part.t[-1] + 1, 4)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events_np", "extract"]


def test_an_old_aedat_file_says_who_reads_it(tmp_path):
    """The way that the message names is one."""
    from spikingjelly.datasets.utils import load_aedat_v3

    events = some_events(0, 50)
    data = np.stack([events.x << 17 | events.y << 2 | events.p << 1 | 1, events.t], 1).astype("<u4")
    head = struct.pack("<HHIIIIII", 1, 0, 8, 4, 0, 50, 50, 50)
    path = tmp_path / "a.aedat"
    path.write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head + data.tobytes())
    with pytest.raises(
        ValueError, match=r"is AEDAT 3.1, and of AEDAT version 4 alone.*load_aedat_v3, and write_recording"
    ):
        open_recording(path)
    written = open_recording(write_recording(tmp_path / "a.h5", Events.of(**load_aedat_v3(path)), (24, 32)))
    assert all(np.array_equal(a, b) for a, b in zip(written.events(), events, strict=True))


def test_cifar10_dvs(tmp_path):
    """AEDAT 2.0 files; SpikingJelly converts them, and recordings 0 to 99 of a class are for testing."""
    from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS_CLASS_NAMES

    for label in CIFAR10DVS_CLASS_NAMES:
        for number in (99, 100):
            events = some_events(number, 50, (128, 128))
            words = np.stack([events.y << 8 | events.x << 1 | events.p, events.t], 1).astype(">u4")
            path = tmp_path / "extract" / label / f"cifar10_{label}_{number}.aedat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"#!AER-DAT2.0\r\n" + words.tobytes())
    (tmp_path / ".events_np.partial" / "airplane").mkdir(parents=True)  # as a process has left it that was killed
    archive = tmp_path / "extract" / "airplane.zip"
    archive.touch()
    with pytest.raises(
        ValueError, match=r"SpikingJelly cannot convert .*airplane.zip.*unpack the download of CIFAR10D"
    ):
        EventFolder(tmp_path, layout="cifar10_dvs")
    archive.unlink()
    (tmp_path / "extract" / "truck").rename(tmp_path / "truck")
    with pytest.raises(ValueError, match=r"there is no .*extract/truck; unpack the download of CIFAR10DVS"):
        EventFolder(tmp_path, layout="cifar10_dvs")
    (tmp_path / "truck").rename(tmp_path / "extract" / "truck")
    train, test = (EventFolder(tmp_path, split, T=4, layout="cifar10_dvs") for split in ("train", "test"))
    assert len(train) == len(test) == 10 and train.classes == sorted(CIFAR10DVS_CLASS_NAMES)
    assert test.filenames()[0] == "airplane/cifar10_airplane_99.npz" and train[0][0].sum() == 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events_np", "extract"]


def test_data_sets_that_are_not_unpacked(tmp_path):
    for layout, missing in (("cifar10_dvs", "airplane"), ("dvs128_gesture", "trials_to_train.txt")):
        with pytest.raises(ValueError, match=f"extract.*{missing}; unpack the download"):
            EventFolder(tmp_path, layout=layout)
    (tmp_path / "events_np.building").touch()
    with pytest.raises(ValueError, match=r"has not finished .*delete"):
        EventFolder(tmp_path, layout="cifar10_dvs")


def empty_class(root):
    (root / "empty").mkdir()
    (root / "empty" / "notes.txt").touch()


def same_name(root):
    (root / "2" / "r0.csv").touch()


def missing_in_list(root):
    (root / "list.txt").write_text("2/r0\n2/r77\n")


def twice_in_list(root):
    (root / "list.txt").write_text("2/r0\n2/r1\n2/r0.npz\n")


BAD_FOLDERS = [
    (empty_class, {}, r"the class folder .*empty has no recording \(.*\.npz"),
    (same_name, {}, r"r0\.\w+ and .*r0\.\w+ have the same name"),
    (
        missing_in_list,
        dict(split="list.txt"),
        r"list.txt names 2/r77, which is no recording.*its first one is 2/deep/r4",
    ),
    (twice_in_list, dict(split="list.txt"), "list.txt names the recording 2/r0 twice; name each one once"),
    (None, dict(split="other.txt"), "there is no file .*other.txt"),
    (None, dict(split="val"), "`split` is 'val'; allowed: 'train', 'test'"),
    (None, dict(layout="n_cars"), "there is no folder .*n-cars_train"),
    (None, dict(layout="imagenet"), "`layout` is 'imagenet'; allowed: 'folders'"),
    (None, dict(kind="images"), "`kind` is 'images'; allowed: 'histogram'"),
    (None, dict(by="size"), "`by` is 'size'; allowed: 'time', 'count'"),
    (None, dict(T=0), "`T` is 0"),
    (None, dict(T=1, kind="gtp"), "`T` is 1, and the trajectory of 'gtp' is of the steps before"),
    (None, dict(T=True), r"`T` is True \(bool\); it must be an int >= 1"),
    (None, dict(sensor=(24,)), r"`sensor` is \(24,\); it must be \(height, width\)"),
    (None, dict(split="test", seed=1.0), r"`seed` is 1.0 \(float\); it must be an int"),
    (None, dict(split="test", share=1.0), r"`share` is 1.0; it must be a number in \[0, 1\)"),
    (None, dict(share="much"), r"`share` is 'much' \(str\); it must be a number"),  # although no split asks for it
    (None, dict(transform=3), r"`transform` is 3 \(int\); it must be a function, or left out"),
    (None, dict(target_transform="x"), r"`target_transform` is 'x' \(str\); it must be a function"),
]


@pytest.mark.parametrize(("prepare", "options", "message"), BAD_FOLDERS)
def test_bad_folders(root, prepare, options, message, monkeypatch):
    monkeypatch.chdir(root)
    if prepare:
        prepare(root)
    with pytest.raises((TypeError, ValueError), match=message):
        EventFolder(root, **options)


def test_no_folder_and_no_classes(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        EventFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no folders of classes"):
        EventFolder(tmp_path)


def damaged(root):
    (root / "2" / "r3.npz").write_bytes((root / "2" / "r3.npz").read_bytes()[:300])


def other_sensor(root):
    write_recording(root / "2" / "r3.npz", some_events(0), (48, 32))


def few_events(root):
    write_recording(root / "2" / "r3.npz", some_events(0, 3), (24, 32))


def one_moment(root):
    write_recording(root / "2" / "r3.npz", some_events(0)._replace(t=np.full(200, 7)), (24, 32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "r3.npz cannot be read as an event file"),
        (other_sensor, r"r3.npz has a sensor of \(48, 32\).*of \(24, 32\); give `sensor`"),
        (few_events, "r3.npz has 3 events, fewer than T = 8 steps"),
        (one_moment, "r3.npz: the window from 7 to 8 µs is too short for 8 parts"),
    ],
)
def test_one_bad_recording_among_good_ones(root, spoil, message):
    spoil(root)
    data, seen = EventFolder(root), []
    with pytest.raises(ValueError, match=message) as error:
        data.check(lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 5)] and "\n" not in str(error.value)
    assert data[0][0].shape == (8, 2, 24, 32)


def test_a_recording_that_is_there_twice(root):
    EventFolder(root).check()
    first = EventFolder(root, "test", share=0.5).samples[0][0]  # the other ones are for training
    for label, message in (("10", "are the same recording, of classes 2 and 10"), ("2", "of which one alone is in")):
        copies = [Path(shutil.copy(first, root / label / f"copy{i}{first.suffix}")) for i in range(3)]
        for split in ("train", "test"):
            with pytest.warns(UserWarning, match=message):
                EventFolder(root, split, share=0.5).check()
        for copy in copies:
            copy.unlink()
    shutil.copy(first, root / "2" / "copy.h5")
    EventFolder(root).check()  # all recordings, which is no split


def test_smaller_recordings_on_a_larger_sensor(root):
    other_sensor(root)
    x, _ = EventFolder(root, sensor=[50, 40])[0]
    assert x.shape == (8, 2, 50, 40) and x[..., :24, :32].sum() == x.sum() == 200
