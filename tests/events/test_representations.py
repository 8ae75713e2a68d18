"""Images of events against loops over events, against SpikingJelly's frames, and on a real recording."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from real_events import REAL

from sterf_plugins.events import (
    REPRESENTATIONS,
    Events,
    equal_counts,
    equal_times,
    gtp,
    histogram,
    open_recording,
    time_surface,
    voxel_grid,
    write_recording,
)
from sterf_plugins.events.representations import channels_of, on_white, trajectory_prompt
from sterf_plugins.events.windows import windows

SIZE, TIMES = (5, 7), [100, 250, 300, 900]


def some_events(number: int = 400) -> Events:
    """Events of a few pixels, many of them at the same place and time, some before and after the intervals."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 1000, number))
    return Events.of(t, rng.integers(0, SIZE[1], number), rng.integers(0, SIZE[0], number), rng.integers(0, 2, number))


def one_by_one(kind: str, events: Events, bins: int = 5, tau: float = 200.0) -> np.ndarray:
    """The definitions, event by event."""
    channels = bins if kind == "voxel_grid" else 2
    images = np.zeros((len(TIMES) - 1, channels, *SIZE))
    for i, (start, stop) in enumerate(itertools.pairwise(TIMES)):
        for t, x, y, p in zip(*events, strict=True):
            if kind == "time_surface":
                if TIMES[0] <= t < stop:
                    images[i, p, y, x] = math.exp(-(stop - t) / tau)
            elif start <= t < stop and kind == "histogram":
                images[i, p, y, x] += 1
            elif start <= t < stop:
                scaled = (bins - 1) * (t - start) / (stop - start)
                for point in range(bins):
                    images[i, point, y, x] += (2 * p - 1) * max(0.0, 1 - abs(point - scaled))
    return images


@pytest.mark.parametrize(("kind", "options"), [("histogram", {}), ("voxel_grid", dict(bins=5)), ("voxel_grid", dict(bins=1)),
                                               ("time_surface", dict(tau=200.0))])  # fmt: skip
def test_images_are_those_of_a_loop(kind, options):
    images = REPRESENTATIONS[kind](some_events(), SIZE, TIMES, **options)
    wanted = one_by_one(kind, some_events(), **options)
    assert (
        images.dtype == np.float32 and images.shape == wanted.shape and channels_of(kind, **options) == wanted.shape[1]
    )
    assert np.abs(wanted).sum((1, 2, 3)).min() > 1
    np.testing.assert_allclose(images, wanted, atol=1e-5)


def test_histograms_are_spikingjellys_frames():
    from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number as frames

    events = some_events()
    columns = dict(zip("txyp", events, strict=True))
    start, stop = int(events.t[0]), int(events.t[-1])
    step = (stop - start) // 4  # SpikingJelly's last interval has the rest
    times = [start, start + step, start + 2 * step, start + 3 * step, stop + 1]
    assert np.array_equal(histogram(events, SIZE, times), frames(columns, "time", 4, *SIZE))
    few = Events.of(np.arange(40), *(column[:40] for column in events[1:]))
    columns = dict(zip("txyp", few, strict=True))
    assert np.array_equal(histogram(few, SIZE, equal_counts(few, 4)), frames(columns, "number", 4, *SIZE))


def test_voxel_grids_and_time_surfaces_are_tonics():
    """Tonic's grid leaves out the last point in time, and with it the last event."""
    tonic = pytest.importorskip("tonic.functional", reason="Tonic is not installed")
    events = some_events()
    start, stop = int(events.t[0]), int(events.t[-1])
    columns = np.rec.fromarrays([events.t, events.x, events.y, events.p], names="t,x,y,p")
    theirs = tonic.to_voxel_grid_numpy(columns.copy(), (SIZE[1], SIZE[0], 2), 4)
    np.testing.assert_allclose(voxel_grid(events, SIZE, [start, stop], bins=5)[0, :4], theirs[:, 0], atol=1e-5)
    theirs = tonic.to_timesurface_numpy(columns, (SIZE[1], SIZE[0], 2), dt=200, tau=300.0)
    times = [start + 200 * i for i in range(len(theirs) + 1)]
    np.testing.assert_allclose(time_surface(events, SIZE, times, tau=300.0), theirs, atol=1e-5)


def test_images_of_a_real_recording():
    pytest.importorskip("faery", reason="the extra [events] is missing")
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    recording = open_recording(REAL / "tonic_sample.aedat4")
    events = recording.events()
    times = equal_times(int(events.t[0]), int(events.t[-1]) + 1, 4)
    assert histogram(events, recording.size, times).sum() == events.number
    assert histogram(events, recording.size, equal_counts(events, 4)).sum((1, 2, 3)) == pytest.approx(
        events.number / 4, abs=100
    )
    assert voxel_grid(events, recording.size, times).sum() == pytest.approx(2 * events.p.sum() - events.number, abs=1)
    assert time_surface(events, recording.size, times).max() <= 1
    prompt = REPRESENTATIONS["gtp"](events, recording.size, times, amount=20)
    wanted = np.stack([image.pixels for image in gtp(recording, times, amount=20)])
    assert np.array_equal(prompt, wanted.transpose(0, 3, 1, 2)) and prompt[1:, 0].any() and not prompt[0, 0].any()


def test_windows_of_event_images_have_trajectories(tmp_path):
    """They are those of the later half of each window, that remember the earlier half."""
    recording = open_recording(write_recording(tmp_path / "a.npz", some_events(100), SIZE))
    times = equal_times(int(recording.events().t[0]), int(recording.events().t[-1]) + 1, 8)
    wanted = [trajectory_prompt(recording.events(), SIZE, times[i : i + 5]) for i in (0, 4)]
    for parts in (1, 2):
        found = list(windows(tmp_path / "a.npz", 2, "gtp", parts))
        assert [image.shape for image in found] == [(parts, 3, *SIZE)] * 2 and all(i[:, 0].any() for i in found)
    assert np.array_equal(found, [images[2:] for images in wanted])


@pytest.mark.parametrize("kind", REPRESENTATIONS)
def test_no_events_give_empty_images(kind):
    images = REPRESENTATIONS[kind](Events.joined([]), SIZE, TIMES)
    assert images.shape == (3, channels_of(kind), *SIZE) and not images.any()


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="`boundaries` must be at least two whole microseconds, in ascending order"):
        histogram(some_events(), SIZE, [5, 5])
    for tau in (0, float("inf")):  # of an infinite one pixels without events were NaN
        with pytest.raises(ValueError, match=f"`tau` is {tau}; it must be a positive time"):
            time_surface(some_events(), SIZE, TIMES, tau=tau)
    with pytest.raises(ValueError, match="`bins` is no option of 'histogram'; it has none"):
        next(windows("a.h5", 2, bins=3))
    with pytest.raises(TypeError, match=r"`tau` is True \(bool\); it must be a positive time"):
        time_surface(some_events(), SIZE, TIMES, tau=True)
    for steps in (True, 1.0):
        with pytest.raises(ValueError, match=rf"`steps` is {steps}; allowed: 1, 2, 4"):
            trajectory_prompt(some_events(), SIZE, TIMES, steps=steps)
    with pytest.raises(ValueError, match="the window from 0 to 3 µs is too short for 4 parts"):
        equal_times(0, 3, 4)
    with pytest.raises(ValueError, match="2 events cannot be cut into 3 parts by their number; cut them by time"):
        equal_counts(some_events(2), 3)
    with pytest.raises(
        ValueError, match="`kind` is 'voxels'; allowed: 'histogram', 'voxel_grid', 'time_surface', 'gtp'"
    ):
        channels_of("voxels")


@pytest.mark.parametrize("kind", REPRESENTATIONS)
def test_events_of_other_types_are_the_same_and_wrong_ones_are_refused(kind):
    rng = np.random.default_rng(0)
    t, x, y, p = (rng.integers(0, limit, 200) for limit in (900, 8, 6, 2))
    events = Events.of(np.sort(t), x, y, p)
    draw = partial(REPRESENTATIONS[kind], size=(6, 8), boundaries=[0, 500, 1000])
    wanted = draw(events)
    small = Events(events.t.astype(np.uint32), x.astype(np.uint16), y.astype(">i2"), p.astype(bool))
    for other in (small, events._replace(p=2 * p - 1), Events(*(column.tolist() for column in events))):
        assert np.array_equal(draw(other), wanted)
    for change, message in (
        (dict(x=x - 3), "has x=-.; it must be a column"),
        (dict(x=x + 8), "outside the sensor of 8 columns and 6 rows"),
        (dict(t=events.t[::-1]), "`events` goes back in time"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(events._replace(**change))
    for times in ([0, np.nan], [0.5, 2.5], ["a", "b"]):
        with pytest.raises(ValueError, match="`boundaries` must be at least two whole microseconds"):
            draw(events, boundaries=times)


def test_a_hot_pixel_leaves_the_others_visible():
    """White without events, black for the darkest twentieth, also below zero as in voxel grids."""
    images = np.zeros((2, 10, 10), np.float32)
    images[0, :5], images[1, 0, 0] = -1, 1000
    grey = on_white(images)
    assert (grey[:5] == 0).all() and (grey[5:] == 1).all()
    assert (on_white(np.zeros((1, 2, 2))) == 1).all()
