"""Event images against those of the golden recording, and against a loop over events."""

from pathlib import Path

import numpy as np
import pytest
from golden_trackers import arrays

from sterf_plugins.events import Events, Recording
from sterf_plugins.events.gtp import RULES, STEPS, gtp


def recording():
    golden = arrays("gtp")
    events, size = Events.of(*golden["events"].T), tuple(int(n) for n in golden["shape"])
    pieces = [events.cut(i, i + 100) for i in range(0, events.number, 100)]
    return Recording(Path("golden"), size, lambda: iter(pieces)), golden["frame_timestamps"], golden


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", RULES)
def test_images_are_the_golden_ones(rule, steps):
    events, times, golden = recording()
    images = list(gtp(events, times, steps, rule=rule))
    wanted = golden[f"{rule}_n{steps}"]
    if rule == "clean":
        wanted = wanted.reshape(-1, *wanted.shape[2:])
        names = [(i, k) for i in range(len(times) - 1) for k in range(steps)]
    else:
        names = [tuple(n) for n in (golden[f"parity_n{steps}_names"] - 1).tolist()]
    assert len(images) == len(wanted) and wanted.any((1, 2)).mean() > 0.8
    got = {(i.interval, i.part): i.pixels for i in images}
    for name, image in zip(names, wanted, strict=True):
        assert np.array_equal(got[name], image[..., ::-1]), name


def test_bad_boundaries():
    events, times, _ = recording()
    for bad in (times[:1], times[::-1], times[[0, 0]]):
        with pytest.raises(ValueError, match="at least two whole microseconds, in ascending order"):
            gtp(events, bad)
    with pytest.raises(ValueError, match="`steps` is 3; allowed: 1, 2, 4"):
        gtp(events, times, 3)


def test_counts_end_at_255():
    """300 events of one pixel, which an amount of 1 shows as 255; and one pixel that begins after the first image."""
    t = np.concatenate([np.arange(300), [1000, 1001]])
    x, y = np.concatenate([np.full(300, 2), [5, 5]]), np.concatenate([np.full(300, 1), [3, 3]])
    events = Events.of(t, x, y, np.concatenate([np.ones(300), [0, 1]]))
    recording = Recording(Path("many"), (4, 6), lambda: iter([events]))
    first, second = (image.pixels for image in gtp(recording, [0, 1000, 2000], amount=1, trajectory=200))
    assert first[1, 2].tolist() == [0, 0, 255] and first.sum() == 255
    assert second[3, 5].tolist() == [255, 1, 1] and second.sum() == 257


@pytest.mark.parametrize(
    ("steps", "boundaries"), [(1, [0, 1000]), (1, [0, 1000, 2000]), (2, [0, 1000]), (4, [0, 4000])]
)
def test_by_parity_the_first_image_has_a_trajectory_only_where_the_recording_ends_in_it(steps, boundaries):
    """The script writes what is open at the end by other lines, which know no first image; by the clean rule it is the first."""
    events = Events.of([100, 600, 700], [2, 3, 3], [1, 2, 2], [1, 0, 0])
    recording = Recording(Path("short"), (4, 6), lambda: iter([events]))
    found = [image.pixels[..., 0] for image in gtp(recording, boundaries, steps, rule="parity")]
    begun = np.zeros((2, 4, 6))
    begun[0, 1, 2] = begun[1, 2, 3] = 30
    expected = [np.zeros((4, 6)), begun[1]] if steps == 2 else [begun.sum(0)]
    assert len(found) == len(expected) and all(map(np.array_equal, found, expected))
    assert not next(gtp(recording, boundaries, steps)).pixels[..., 0].any()
