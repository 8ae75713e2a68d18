"""Event files of all formats: real ones, and what is written and read back."""

import gzip
import itertools
import os
import resource
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sterf_plugins.events import Events, Frame, read_events, write_events
from sterf_plugins.events.random_access import index_recording
from sterf_plugins.events.readers import open_recording
from sterf_plugins.events.writers import write_recording

pytest.importorskip("faery", reason="the extra [events] is missing")
REAL = (
    Path(os.environ.get("STERF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden")).parent
    / "real_events"
)

FACTS = [  # file, events, first and last time, (height, width), frames
    ("tonic_sample.aedat4", 111_954, 1605537493718345, 1605537494308262, (240, 320), 0),
    ("emlb_demo-01.aedat4", 319_512, 1643243628737093, 1643243629248083, (260, 346), 13),
    ("faery_evt2.raw", 521_252, 913716224, 913812095, (720, 1280), 0),
    ("faery_dvs.es", 473_225, 0, 999_000, (240, 320), 0),
    ("expelliarmus_evt2_sample.raw", 539_481, 1_317_888, 1_367_888, (720, 1280), 0),
    ("expelliarmus_evt3_sample.raw", 219_596, 11_718_656, 11_727_467, (720, 1280), 0),
]


def real(name: str) -> Path:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


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


@pytest.fixture
def events():
    rng = np.random.default_rng(3)
    t = np.sort(rng.integers(1_600_000_000_000_000, 1_600_000_000_200_000, 5000))
    return Events.of(t, rng.integers(0, 60, 5000), rng.integers(0, 40, 5000), rng.integers(0, 2, 5000))


def same(a: Events, b: Events) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


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


@pytest.mark.parametrize(("at", "to", "message"), [(0, 9999, "9999 to 1 µs at event 1"), (25, 9999, "9999 to 26 µs at event 26"),
                                                   (99, 99, None)])  # fmt: skip
def test_an_aedat4_file_whose_clock_goes_back(tmp_path, at, to, message):
    """faery gives all later events the time of the one that is too late; the file is written packet by packet, not compressed."""
    dv = pytest.importorskip("dv_processing")
    config = dv.io.MonoCameraWriter.Config("camera")
    config.addEventStream((60, 40))
    config.compression = dv.CompressionType.NONE
    writer = dv.io.MonoCameraWriter(str(tmp_path / "a.aedat4"), config)
    times = [*range(100), *[100] * 50]  # and packets in which nothing advances
    for start in range(0, 150, 10):
        store = dv.EventStore()
        for t in times[start : start + 10]:
            store.push_back(t, 5, 7, True)
        writer.writeEvents(store)
    del writer
    place, event = (np.array([(t, 5, 7, 1)], "<i8,<i2,<i2,i1").tobytes() for t in (at, to))
    data = (tmp_path / "a.aedat4").read_bytes()
    assert data.count(place) == 1
    (tmp_path / "b.aedat").write_bytes(data.replace(place, event))
    with (
        nullcontext()
        if message is None
        else pytest.raises(ValueError, match=f"b.aedat goes back in time from {message}")
    ):
        assert open_recording(tmp_path / "b.aedat").events().t.tolist() == times


def test_a_damaged_aedat4_file_in_which_nothing_advances(tmp_path):
    """Whether its clock went back, dv_processing would say, which waits for ever at a packet that it cannot unpack."""
    pytest.importorskip("dv_processing")
    still = [Events.of([100] * 10, [5] * 10, [7] * 10, [1] * 10)] * 10
    path = write_recording(tmp_path / "a.aedat4", still, (40, 60))
    mark = b"\x04\x22\x4d\x18"  # of each packet, which LZ4 has packed
    *packets, table = path.read_bytes().split(mark)
    assert len(packets) == 11
    path.write_bytes(mark.join(packets[:5]) + bytes(4) + mark.join([*packets[5:], table]))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)  # it does not give Python the time to fail
    try:
        with pytest.raises(ValueError, match=r"a.aedat4 cannot be read as an event file: LZ4 error"):
            open_recording(path).events()
    finally:
        signal.alarm(0)


def test_a_disk_without_room_for_an_aedat4_file(events, tmp_path, monkeypatch):
    """Otherwise a thread of dv_processing ends the whole process."""
    pytest.importorskip("dv_processing")
    frame, room = Frame(int(events.t[0]), 0, np.zeros((40, 60), np.uint8)), 16 * events.number + 2400
    for free, fits in ((room, True), (room - 1, False), (2399, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with nullcontext() if fits else pytest.raises(OSError, match="No space left on device"):
            write_recording(tmp_path / "a.aedat4", events, (40, 60), [frame])
        assert [p.name for p in tmp_path.iterdir()] == ["a.aedat4"] * fits
        (tmp_path / "a.aedat4").unlink(missing_ok=True)


@pytest.mark.parametrize("room", [3_000, 12_000])
def test_a_disk_without_room_for_an_hdf5_file(events, tmp_path, room):
    """HDF5 itself would end the process, or leave half a file under its name."""
    path = write_recording(tmp_path / "a.h5", events, (48, 64))
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(50, 2, 48, 64, generator=generator) < 0.3, torch.zeros(50, 1, 2)
    writers = (
        lambda: write_recording(tmp_path / "b.h5", events, (48, 64)),
        lambda: write_events(tmp_path / "b.h5", *video),
        lambda: index_recording(path, tmp_path),
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # bytes of a file
    try:
        for write in writers:
            with pytest.raises((OSError, ValueError), match="File too large"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


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


def test_bad_files(events, tmp_path):
    path = write_recording(tmp_path / "a.aedat4", events, (40, 60))
    for name, data, message in (
        ("cut.aedat4", path.read_bytes()[:2000], "cut.aedat4 cannot be read as an event file"),
        ("text.aedat4", b"hello", "text.aedat4 cannot be read as an event file"),
        ("text.h5", b"hello", "text.h5 cannot be read as an event file"),
        ("text.npz", b"hello", "text.npz cannot be read as an event file"),
        ("a.txt", b"hello", "a.txt ends with none of .aedat4"),
        ("a.csv", b"t,x,y\n1,2,3\n", "a.csv has 't', 'x', 'y', and no events' p"),
        ("b.csv", b"t,x,y,p\n1,2,3,one\n", "b.csv cannot be read as an event file"),
        ("c.csv", b"t,x,y,p\n5,2,3,1\n4,2,3,1\n", "goes back in time from 5 to 4 .s at event 1"),
        ("raw.raw", b"hello", "cannot be read|goes back"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            open_recording(tmp_path / name).events()
    with pytest.raises(ValueError, match=r"there is no event file .*none.raw"):
        open_recording(tmp_path / "none.raw")
    with pytest.raises(ValueError, match="outside the sensor of 30 columns and 40 rows"):
        open_recording(path, size=(40, 30)).events()
    with pytest.raises(ValueError, match=r"`events`: event .* outside the sensor of 30 columns and 40 rows"):
        write_recording(tmp_path / "b.h5", events, (40, 30))
    assert not (tmp_path / "b.h5").exists()
    with pytest.raises(ValueError, match="give one of `time`, `count` and `boundaries`"):
        open_recording(path).slices()


def test_packed_renamed_and_cut_off_files(events, tmp_path):
    evt3 = real("expelliarmus_evt3_sample.raw").read_bytes()
    for name, data, message in (
        ("a.raw", gzip.compress(evt3), "a.raw is packed by gzip; unpack it first"),
        ("b.raw", evt3[:-3], "its last event has 1 of 2 bytes. It may be cut off"),
        ("c.raw", real("faery_evt2.raw").read_bytes()[:-7], "its last event has 1 of 4 bytes"),
        ("d.raw", evt3[:64], "no header of lines that start with %, or ends in it"),
        ("e.csv", bytes(5000), "e.csv has .*, and no events' t, x, y, p"),
        ("f.h5", evt3, "f.h5 cannot be read as an event file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            open_recording(tmp_path / name).events()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_an_event_stream_that_ends_inside_an_event(tmp_path):
    """Of its last event faery says nothing; bytes that are no event may stand in front of each, and at the end."""
    data, path = real("faery_dvs.es").read_bytes(), tmp_path / "a.es"
    for count in (1, 4, 6, 5):
        path.write_bytes(data[:-count])
        if count == 5:
            assert open_recording(path).events().number == 473_224
            continue
        with pytest.raises(ValueError, match=rf"a.es cannot be read .*: its last event has {(-count) % 5} of 5 bytes"):
            open_recording(path).events()
    few = data[:20] + bytes([255, 254, 3, 1, 0, 2, 0, 254, 255, 255, 5, 1, 0, 2, 0])
    for end in (b"", bytes([254]), bytes([255, 254, 255])):
        path.write_bytes(few + end)
        assert open_recording(path).events().t.tolist() == [128, 384]
    path.write_bytes(few + bytes([255, 255, 5, 1, 0]))
    with pytest.raises(ValueError, match="its last event has 3 of 5 bytes"):
        open_recording(path).events()


def test_prophesee_files_whose_times_faery_would_change(events, tmp_path):
    """Written bit by bit: those in the order of time are read, through the end of a round of the clock, and others refused."""
    size, ends = (40, 60), (2**32 - 100_000, 2**34 - 100_000)  # rounds of the clocks of DAT and EVT2
    swapped = events.t - events.t[0]
    swapped[[2000, 3000]] = swapped[[3000, 2000]]
    for t, in_order in ((events.t - events.t[0], True), (swapped, False)):
        dat, evt2 = ((t + end) for end in ends)
        words = np.stack([dat % 2**32, events.x | events.y << 14 | events.p << 28], 1).astype("<u4")
        head = b"% Version 2\n% Width 60\n% Height 40\n"
        (tmp_path / "a.dat").write_bytes(head + bytes((12, 8)) + words.tobytes())
        high = np.stack(
            [8 << 28 | evt2 >> 6 & 0xFFFFFFF, events.p << 28 | (evt2 & 63) << 22 | events.x << 11 | events.y], 1
        )
        (tmp_path / "b.raw").write_bytes(b"% evt 2.0\n% geometry 60x40\n% end\n" + high.astype("<u4").tobytes())
        for name, times in (("a.dat", dat), ("b.raw", evt2)):
            recording = open_recording(tmp_path / name)
            if in_order:
                assert recording.size == size and same(recording.events(), Events(times, *events[1:])), name
            else:
                with pytest.raises(
                    ValueError, match=rf"{name} goes back in time at event 200[01]; sort its events by time"
                ):
                    recording.events()


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


@pytest.mark.slow
def test_damaged_copies_and_files_are_named(events, tmp_path):
    """Whichever byte of an HDF5 file is wrong, the error is one line with its name, and not h5py's own."""
    path = write_recording(tmp_path / "a.h5", events, (48, 64))
    copy = index_recording(path, tmp_path / "cache")
    whole, outcomes = copy.path.read_bytes(), []
    for i in range(0, 3000, 150):
        copy.path.write_bytes(whole[:i] + bytes([7] * 16) + whole[i + 16 :])
        for read in (lambda: index_recording(path, tmp_path / "cache"), lambda: copy.events(0, copy.number)):
            try:
                read()
            except ValueError as error:
                outcomes.append(str(error))
    assert len(outcomes) > 10
    assert all(f"{copy.path} cannot be read as an event file" in line and "delete it" in line for line in outcomes)
    outcomes, video = (
        [],
        write_events(tmp_path / "v.h5", torch.ones(3, 2, 8, 8, dtype=torch.bool), torch.zeros(3, 1, 2)),
    )
    whole = video.read_bytes()
    for i in range(8, len(whole), 120):
        video.write_bytes(whole[:i] + bytes([7] * 16) + whole[i + 16 :])
        try:
            read_events(video)
        except ValueError as error:
            outcomes.append(str(error))
    assert len(outcomes) > 10 and all(str(video) in line for line in outcomes)


def test_hdf5_of_other_things(events, tmp_path):
    h5py = pytest.importorskip("h5py")
    columns = dict(zip("txyp", events, strict=True))
    for added, message in (
        (dict(t_offset=[1, 2]), "t_offset is .1 2.; it must be one whole number"),
        (dict(t_offset=2**63 - 1), "t_offset is 9223372036854775807; it must be whole microseconds"),
        (dict(t_offset="soon"), "t_offset is b'soon'; it must be one whole number"),
        (dict(height=[48, 3], width=64), r"height is \[48  3\]; it must be one whole number"),
        (dict(height=0, width=64), "`height, width` is 0; it must be an int >= 1"),
        (dict(height=48, width=2**16 + 1), "a sensor has at most 65,536 rows and columns"),
        (dict(height=48), "says that its height is 48, and not the other side; write both, or give the size"),
        (dict(t=h5py.Empty("i8")), "t, x, y, p have the shapes None"),
        (dict(t=3), r"t, x, y, p have the shapes \(\)"),
        (dict(p="group"), "t, x, y, p have the shapes .*, None"),
    ):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, values in (columns | added).items():
                if name in ("height", "width"):
                    file.attrs[name] = values
                elif isinstance(values, str) and values == "group":
                    file.create_group(name)
                else:
                    file[name] = values
        with pytest.raises(ValueError, match=message):
            open_recording(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in (columns | dict(t=events.t + 2**53 - 10**7, t_offset=10**8)).items():
            file[name] = values
    with pytest.raises(ValueError, match=r"event \d+ has t=\d+; it must be whole microseconds"):
        open_recording(tmp_path / "a.h5").events()
    np.savez(tmp_path / "a.npz", **columns, width=64)
    with pytest.raises(ValueError, match=r"a\.npz says that its width is 64, and not the other side"):
        open_recording(tmp_path / "a.npz")
    assert open_recording(tmp_path / "a.npz", (48, 64)).size == (48, 64)
    for size, error in (((48,), ValueError), ("ab", ValueError), ((48.5, 64), TypeError), ((0, 64), ValueError)):
        with pytest.raises(error, match="`size` is"):
            open_recording(real("faery_dvs.es"), size)


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


def test_what_is_no_recording_is_not_written(events, tmp_path):
    frame = np.zeros((40, 60), np.uint8)
    for suffix, change, frames, message in (
        (".h5", dict(t=events.t / 1e6), [], "event 0 has t=.*; it must be whole microseconds"),
        (".h5", dict(t=events.t[::-1]), [], "`events` goes back in time"),
        (".npz", dict(p=events.p * 7), [], "has p=7; it must be a polarity"),
        (".h5", dict(x=events.x[1:]), [], "have the shapes"),
        (".aedat4", dict(t=events.t - events.t[-1]), [], "AEDAT4 holds times from 0 on; add an offset"),
        (".aedat4", {}, [Frame(5, 0, frame[1:])], "frame 0 is uint8 .39, 60.; it must be uint8 of the sensor's size"),
        (".aedat4", {}, [Frame(5, 0, frame / 2)], "frame 0 is float64"),
        (".aedat4", {}, [Frame(5, 0, frame), Frame(4, 0, frame)], "frame 1 is at 4 .s; frames must be in the order"),
        (
            ".aedat4",
            {},
            [Frame(5, 5, frame), Frame(9, 7, frame)],
            "frame 1 began at 7 .s and has the time 9 .s; .* one time",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            write_recording(tmp_path / f"a{suffix}", events._replace(**change), (40, 60), frames)
    for name, error, message in (("a.AEDAT4", ValueError, "ends with .AEDAT4, and dv_processing writes files"),
                                 ("/proc/a.aedat4", OSError, "'/proc")):  # fmt: skip
        with pytest.raises(error, match=message):
            write_recording(tmp_path / name, events, (40, 60))
    with pytest.raises(TypeError, match=r"`events` has a ndarray; it must be Events"):
        write_recording(tmp_path / "a.h5", tuple(events), (40, 60))
    assert not list(tmp_path.iterdir())
    wide = events._replace(x=events.x + 40_000)  # more than int16 holds
    for name, given in (("A.H5", wide), ("a.npz", wide._replace(p=2 * wide.p - 1))):
        assert same(open_recording(write_recording(tmp_path / name, given, (40, 50_000))).events(), wide)
