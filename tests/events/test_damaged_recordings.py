"""Event files that are cut off, damaged, renamed or of something else are named, and a full disk leaves no half of a file."""

import gzip
import resource
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from real_events import real, same

from sterf_plugins.events import Events, Frame, read_events, write_events
from sterf_plugins.events.random_access import index_recording
from sterf_plugins.events.readers import open_recording
from sterf_plugins.events.writers import write_recording

pytest.importorskip("faery", reason="the extra [events] is missing")


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
