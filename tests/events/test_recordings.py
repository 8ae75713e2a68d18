"""Event files of all formats: real ones, and what is written and read back."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from real_events import real, same

from sterf_plugins.events import Events, Frame
from sterf_plugins.events.readers import open_recording
from sterf_plugins.events.writers import write_recording

pytest.importorskip("faery", reason="the extra [events] is missing")

FACTS = [  # file, events, first and last time, (height, width), frames
    ("tonic_sample.aedat4", 111_954, 1605537493718345, 1605537494308262, (240, 320), 0),
    ("emlb_demo-01.aedat4", 319_512, 1643243628737093, 1643243629248083, (260, 346), 13),
    ("faery_evt2.raw", 521_252, 913716224, 913812095, (720, 1280), 0),
    ("faery_dvs.es", 473_225, 0, 999_000, (240, 320), 0),
    ("expelliarmus_evt2_sample.raw", 539_481, 1_317_888, 1_367_888, (720, 1280), 0),
    ("expelliarmus_evt3_sample.raw", 219_596, 11_718_656, 11_727_467, (720, 1280), 0),
]


@pytest.mark.parametrize(("name", "count", "first", "last", "size", "frames"), FACTS)
def test_real_recordings(name, count, first, last, size, frames):
    recording = open_recording(real(name))
    events = recording.events()
    assert (events.number, events.t[0], events.t[-1], recording.size) == (count, first, last, size)
    assert set(np.unique(events.p)) == {0, 1} and (np.diff(events.t) >= 0).all()
    if frames:
        assert len(list(recording.frames())) == len(recording.frame_times()) == frames
        assert (np.diff(recording.frame_times()) > 30_000).all()
    else:
        with pytest.raises(ValueError, match="has no frames"):
            recording.frame_times()
    for slices in (recording.slices(count=1000), recording.slices(time=10_000)):
        parts = list(slices)
        joined = Events.joined(parts)
        assert all(np.array_equal(a, b) for a, b in zip(joined, events, strict=True)) and len(parts) >= 1


@pytest.mark.parametrize("name", ["emlb_demo-01.aedat4", "faery_evt2.raw", "tonic_sample_ncars.dat", "faery_dvs.es"])
def test_suffixes_in_capitals(name, tmp_path):
    path = tmp_path / f"a{Path(name).suffix.upper()}"
    path.symlink_to(real(name))
    small, capital = (next(iter(open_recording(p))) for p in (real(name), path))
    assert same(small, capital) and small.number > 100


def test_an_old_dat_file():
    """N-CARS: events of the type "2d"; one car of 100 ms on 120 x 100 pixels, in the order of time."""
    recording = open_recording(real("tonic_sample_ncars.dat"))
    events = recording.events()
    assert events.number > 1000
    assert set(np.unique(events.p)) == {0, 1} and (np.diff(events.t) >= 0).all()
    assert 50_000 < events.t[-1] - events.t[0] <= 100_000 and max(recording.size) < 304


@pytest.mark.parametrize("suffix", [".aedat4", ".h5", ".npz"])
def test_what_is_written_is_read(events, suffix, tmp_path):
    path = write_recording(tmp_path / f"a{suffix}", [events.cut(0, 2000), events.cut(2000)], (40, 60))
    recording = open_recording(path)
    assert recording.size == (40, 60) and same(recording.events(), events)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_camera_makers_library_reads_what_is_written(events, tmp_path):
    dv = pytest.importorskip("dv_processing")
    rng = np.random.default_rng(0)
    times = events.t[0] + np.arange(4) * 50_000
    frames = [Frame(int(t), 0, rng.integers(0, 255, (40, 60), dtype=np.uint8)) for t in times]
    path = write_recording(tmp_path / "a.aedat4", events, (40, 60), frames)
    reader = dv.io.MonoCameraRecording(str(path))
    assert reader.getEventResolution() == (60, 40)
    read, pictures = [], []
    while (batch := reader.getNextEventBatch()) is not None:
        xy = batch.coordinates()
        read.append(Events.of(batch.timestamps(), xy[:, 0], xy[:, 1], batch.polarities()))
    while (frame := reader.getNextFrame()) is not None:
        pictures.append((frame.timestamp, np.squeeze(frame.image)))
    assert same(Events.joined(read), events)
    assert [t for t, _ in pictures] == times.tolist()
    assert all(np.array_equal(a, f.pixels) for (_, a), f in zip(pictures, frames, strict=True))
    ours = open_recording(path)
    assert ours.frame_times().tolist() == times.tolist()
    assert all(np.array_equal(np.squeeze(a.pixels), b.pixels) for a, b in zip(ours.frames(), frames, strict=True))


def test_colours_of_frames(events, tmp_path):
    """The camera maker's library has blue, green, red, as OpenCV."""
    dv = pytest.importorskip("dv_processing")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    frames = [Frame(int(t), 0, pixels) for t in (events.t[0], events.t[-1] + 1)]
    path = write_recording(tmp_path / "a.aedat4", events, (40, 60), frames)
    assert all(np.array_equal(frame.pixels, pixels) for frame in open_recording(path).frames())
    assert np.array_equal(dv.io.MonoCameraRecording(str(path)).getNextFrame().image, pixels[..., ::-1])


def test_several_cameras_in_one_file(tmp_path):
    """Which of their events are meant, nobody has said; pictures of several of them are no sequence."""
    dv = pytest.importorskip("dv_processing")
    for streams, message in ((("a", "b"), "has 2 streams of type 'events'"), (("a",), "has 2 streams of type 'frame'")):
        config = dv.io.MonoCameraWriter.Config("camera")
        for name in streams:
            config.addEventStream((60, 40), name)
        for name in ("left", "right"):
            config.addFrameStream((60, 40), name)
        writer = dv.io.MonoCameraWriter(str(tmp_path / "a.aedat4"), config)
        for name in streams:
            store = dv.EventStore()
            store.push_back(1000, 5, 5, True)
            writer.writeEvents(store, name)
        del writer
        with pytest.raises(ValueError, match=message):
            assert open_recording(tmp_path / "a.aedat4").events().number == 1
            open_recording(tmp_path / "a.aedat4").frame_times()


def test_data_sets_of_a_filter_that_is_not_here(events, tmp_path):
    """DSEC's are compressed by Blosc, which is a package of its own."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "txyp":
            options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            options.set_chunk((10,))
            options.set_filter(300 if name == "y" else h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (1,))
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((10,)), options)
    with pytest.raises(ValueError, match=r"a.h5: y is compressed by filter 300 of HDF5, .* `pip install hdf5plugin`"):
        open_recording(tmp_path / "a.h5", (40, 60))


def test_other_peoples_layouts(events, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "dsec.h5", "w") as file:
        for name, values in zip("txyp", events, strict=True):
            file[f"events/{name}"] = values - (events.t[0] if name == "t" else 0)
        file["t_offset"] = events.t[0]
    with h5py.File(tmp_path / "tonic.hdf5", "w") as file:
        for name, values in zip("txyp", events, strict=True):
            file[name] = values
    np.savez(tmp_path / "spikingjelly.npz", **dict(zip("txyp", events, strict=True)))
    order = ("x", "y", "polarity", "timestamp")
    table = np.stack([events.x, events.y, events.p * 2 - 1, events.t], 1)
    np.savetxt(tmp_path / "a.csv", table, "%d", ",", header=",".join(order), comments="")
    np.savetxt(tmp_path / "spaces.csv", table, "%d", " , ", header=" x , y , polarity , timestamp ", comments="")
    with h5py.File(tmp_path / "simulated.h5", "w") as file:  # in seconds, as of many simulators
        for name, values in zip("txyp", events, strict=True):
            file[f"events/{name}s"] = values / 1e6 if name == "t" else values
    for name in ("dsec.h5", "tonic.hdf5", "spikingjelly.npz", "a.csv", "spaces.csv", "simulated.h5"):
        recording = open_recording(tmp_path / name, time_unit="s" if name == "simulated.h5" else "us")
        assert same(recording.events(), events), name
        assert recording.size == (40, 60)


def test_slices_between_times(events, tmp_path):
    recording = open_recording(write_recording(tmp_path / "a.h5", events, (40, 60)))
    times = events.t[0] + np.array([-50, 10, 30_000, 90_000, 90_001, 900_000])
    told: list[int] = []
    parts = list(recording.slices(boundaries=times, progress=told.append))
    assert told[-1] == events.number
    for (start, stop), part in zip(itertools.pairwise(times), parts, strict=True):
        inside = (events.t >= start) & (events.t < stop)
        assert same(part, Events(*(column[inside] for column in events)))


def test_the_clock_of_evt3(tmp_path):
    """One event for each 4096 µs, written bit by bit: through the end of a round of the clock, and from any beginning.

    The byte of % stands for 37, and in the first event begins no line of the header.
    """
    for first, end in ((0, b""), (37, b""), (37, b"% end\n"), (4093, b"% end\n")):
        counts = np.arange(first, 4100)
        x, y, off = (np.full(len(counts), number) for number in (5, 7, 0))
        words = np.stack([8 << 12 | counts % 4096, 6 << 12 | off, y, 2 << 12 | x], 1)
        (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n% geometry 60x40\n" + end + words.astype("<u2").tobytes())
        assert same(open_recording(tmp_path / "a.raw").events(), Events(4096 * counts, x, y, off))
    for jumps, message in (([4094], "word 0 .* from 0 to 4094"), ([3000, 4095, 1], "word 2 .* from 4095 to 1"),
                           ([5, 4], "word 1 .* from 5 to 4")):  # fmt: skip
        words = np.array([8 << 12 | count for count in jumps] + [6 << 12, 7, 2 << 12 | 5], "<u2")
        (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n% geometry 60x40\n" + words.tobytes())
        with pytest.raises(ValueError, match=rf"a.raw: at its {message}, and later times would be wrong; sort"):
            open_recording(tmp_path / "a.raw").events()


def test_versions_of_prophesee_files(events, tmp_path):
    """Version 1 of the event type "2d" has columns of 9 bits and rows of 8; RAW files of EVT2 and EVT3 are read."""
    t = events.t - events.t[0]
    words = np.stack([t, events.x | events.y << 9 | events.p << 17], 1).astype("<u4")
    (tmp_path / "a.dat").write_bytes(b"% Data\n% Version 1\n" + bytes((0, 8)) + words.tobytes())
    assert same(open_recording(tmp_path / "a.dat").events(), Events(t, *events[1:]))
    assert open_recording(tmp_path / "a.dat").size == (40, 60)  # the smallest
    (tmp_path / "a.dat").write_bytes(
        b"% Data\n% Height 240\n% Width 304\n% Version 1\n" + bytes((0, 8)) + words.tobytes()
    )
    assert open_recording(tmp_path / "a.dat").size == (240, 304)
    assert open_recording(tmp_path / "a.dat", (50, 70)).size == (50, 70)
    for line, message in (
        (b"evt 2.1", "is EVT2.1"),
        (b"format EVT21;width=9", "is EVT2.1"),
        (b"date 2017", "unknown version"),
    ):
        (tmp_path / "b.raw").write_bytes(b"% geometry 60x40\n% " + line + b"\n% end\n" + bytes(64))
        with pytest.raises(
            ValueError, match=rf"b.raw is .*{message[3:]}.*, and of RAW files EVT2 and EVT3 are read; convert"
        ):
            open_recording(tmp_path / "b.raw")
    (tmp_path / "c.csv").write_text("t,x,y,p\n# nothing\n")
    assert not open_recording(tmp_path / "c.csv").events().number


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv"])
def test_times_of_another_unit(suffix, tmp_path):
    """Whole microseconds come back exactly, from whole numbers and from fractions, also of today's date."""
    first = 1_700_000_000_123_456
    t = first + np.array([0, 1, 999, 1_000, 2_345_678_901])
    whole = t // 1_000 * 1_000
    for unit, stored, expected in (
        ("us", t, t),
        ("ns", t * 1_000, t),
        ("ns", (t - first).astype(np.uint64) * 1_000 + 499, t - first),
        ("ns", (t - first) * 1_000 + 501, t - first + 1),
        ("ms", whole // 1_000, whole),
        ("ms", (t - first).astype(np.uint32) / 1_000, t - first),
        ("s", t / 1e6, t),
        ("s", (t - t.min())[:4].astype(np.float32) / np.float32(1e6), (t - first)[:4]),
    ):
        path, columns = (
            tmp_path / f"a{suffix}",
            dict(t=stored, x=[3] * len(stored), y=[2] * len(stored), p=[1] * len(stored)),
        )
        if suffix == ".npz":
            np.savez(path, **columns)
        elif suffix == ".csv":
            lines = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
            path.write_text("t,x,y,p\n" + "".join(f"{','.join(map(repr, line))}\n" for line in lines))
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(path, "w") as file:
                for name, values in columns.items():
                    file[name] = values
        found = open_recording(path, time_unit=unit).events()
        assert found.t.dtype == np.int64 and np.array_equal(found.x, [3] * len(stored))
        assert found.t.tolist() == expected.tolist(), unit
    np.savez(tmp_path / "b.npz", **columns | dict(t=np.linspace(0, 17, len(stored), dtype=np.float32)))
    for name, unit, message in (
        ("a.npz", "s", "t reaches 1.7e.15, and with `time_unit` 's' that is no time of a recording"),
        ("b.npz", "s", "t reaches 17, and with `time_unit` 's' numbers of type float32 have lost its microseconds"),
        ("b.npz", "h", "`time_unit` is 'h'; allowed: 'ns', 'us', 'ms', 's'"),
        ("a.aedat4", "ns", "`time_unit` is 'ns', and files of the format .aedat4 have microseconds; leave it out"),
    ):
        if name == "a.npz":
            np.savez(tmp_path / name, **columns | dict(t=t[: len(stored)]))
        elif name == "a.aedat4":
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match=message):
            open_recording(tmp_path / name, time_unit=unit)
