"""Event videos: what a moving edge fires, files, and the data set."""

import numpy as np
import pytest
import torch

from sterf_plugins.events import EventFolder, Events, Motion, read_events, render, write_events, write_recording
from sterf_plugins.tracking import ShapeEvents

STILL = dict(resolution=(64, 64), background=0.0, seed=0)


def test_a_still_scene_is_silent_and_noise_has_its_rate():
    events, centres = render(2, 20, motion=Motion(size=16), **STILL)
    assert events.shape == (20, 2, 2, 64, 64)
    assert centres.shape == (20, 2, 3, 2)
    assert not events.any()
    noisy, _ = render(2, 50, motion=Motion(size=16), **{**STILL, "background": 0.02})
    # three shapes, each Bernoulli of half of it per pixel and polarity
    assert noisy.float().mean().item() == pytest.approx(0.03, rel=0.05)


def test_an_edge_fires_behind_and_ahead():
    """The trailing edge darkens (channel 0), the leading one brightens (channel 1)."""
    events, centres = render(1, 20, motion=Motion(translate=0.6, size=20, angle=0), shapes=("square",), **STILL)
    for n in range(5, 15):
        step = centres[n, 0, 0] - centres[n - 1, 0, 0]
        rows, columns = events[n, 0, 0].nonzero(as_tuple=True)
        if not len(rows):
            continue
        behind = torch.stack([rows, columns], -1).float().mean(0) - centres[n, 0, 0]
        assert (behind * step).sum() < 0
    total = events.sum((0, 1, 3, 4))
    assert total.min() > 0.8 * total.max()


@pytest.mark.slow
def test_faster_shapes_fire_more_and_density_thins():
    def rate(translate, **options):
        motion = Motion(translate=translate, size=20)
        return render(4, 30, motion=motion, **{**STILL, **options})[0].float().mean().item()

    slow, fast = rate(0.16), rate(0.64)
    assert fast > 2 * slow > 0
    assert rate(0.64, density=0.5) == pytest.approx(fast / 2, rel=0.15)


def test_labels_are_the_centres_of_the_events():
    events, centres = render(3, 40, motion=Motion(translate=0.7, rotate=2, size=24), shapes=("circle",), **STILL)
    for video in range(3):
        for n in range(10, 40, 10):
            seen = events[n - 8 : n, video].any(0).any(0).nonzero().float()
            middle = (seen.amin(0) + seen.amax(0)) / 2
            assert (middle - centres[n - 8 : n, video, 0].mean(0)).abs().max() < 2


def test_videos_stay_inside_and_a_seed_repeats_them():
    options = dict(resolution=(40, 56), motion=Motion(translate=1.5, scale=0.5, rotate=5, shear=3, size=12), seed=4)
    events, centres = render(3, 60, **options)
    assert (centres >= 0).all()
    assert (centres < torch.tensor([40, 56])).all()
    again, _ = render(3, 60, **options)
    assert torch.equal(events, again)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_files(tmp_path, suffix):
    events, centres = render(1, 12, motion=Motion(translate=0.7, size=16), resolution=(48, 64), seed=1)
    path = write_events(tmp_path / f"video{suffix}", events[:, 0], centres[:, 0])
    found, labels = read_events(path)
    assert torch.equal(found, events[:, 0])
    torch.testing.assert_close(labels, centres[:, 0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as an event file"):
        read_events(path)


def test_spikingjelly_reads_the_events(tmp_path):
    from spikingjelly.datasets import utils

    events, centres = render(1, 12, motion=Motion(translate=0.7, size=16), resolution=(48, 64), seed=1)
    path = write_events(tmp_path / "video.npz", events[:, 0], centres[:, 0])
    frames = utils.integrate_events_by_fixed_frames_number(dict(np.load(path)), "number", 4, 48, 64)
    assert frames.shape == (4, 2, 48, 64)
    assert frames.sum() == events.sum().item()


def test_unordered_events_are_refused(tmp_path):
    arrays = dict(t=[3, 1], x=[0, 0], y=[0, 0], p=[0, 1], frames=4, height=8, width=8, labels=np.zeros((4, 1, 2)))
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match="goes back in time from 3 to 1"):
        read_events(tmp_path / "bad.npz")
    np.savez(tmp_path / "few.npz", **{**arrays, "t": [1, 3], "labels": np.zeros((3, 1, 2))})
    with pytest.raises(ValueError, match=r"few.npz has labels of shape \(3, 1, 2\), and says that it has 4 frames"):
        read_events(tmp_path / "few.npz")
    np.savez(tmp_path / "far.npz", **{**arrays, "x": [0, 90], "t": [1, 3]})
    with pytest.raises(ValueError, match="event 1 has x=90, outside the sensor"):
        read_events(tmp_path / "far.npz")
    with pytest.raises(ValueError, match="there is no event file"):
        read_events(tmp_path / "video.dat")


def test_a_recording_in_microseconds_is_divided_into_frames(tmp_path):
    """Labels may be missing, and the number of frames is the user's: times do not count frames."""
    t = np.array([0, 10, 99_999, 100_000, 300_000]) + 1_600_000_000_000_000
    write_recording(tmp_path / "a.h5", Events.of(t, [0, 1, 2, 3, 4], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]), (3, 6))
    with pytest.raises(ValueError, match=r"does not say how many frames it has.*give `frames`"):
        read_events(tmp_path / "a.h5")
    events, labels = read_events(tmp_path / "a.h5", frames=3)
    assert labels is None and events.shape == (3, 2, 3, 6)
    assert sorted(map(tuple, events.nonzero().tolist())) == [
        (0, 0, 0, 1), (0, 0, 1, 3), (0, 1, 0, 0), (0, 1, 1, 2), (2, 1, 1, 4),
    ]  # fmt: skip


def test_frames_of_a_recording_do_not_depend_on_its_clock(tmp_path):
    """Fractions of a microsecond are lost of a time of day in float64: an event after 4 of 5 µs is in frame 6 of 8."""
    for clock in (0, 1_643_243_628_737_093):
        write_recording(tmp_path / "a.npz", Events.of(clock + np.arange(5), np.arange(5), [0] * 5, [1] * 5), (1, 5))
        frames, _ = read_events(tmp_path / "a.npz", frames=8)
        assert frames[:, 1, 0].nonzero().tolist() == [[0, 0], [1, 1], [3, 2], [4, 3], [6, 4]]


def test_data_set(tmp_path):
    events, centres = render(5, 20, motion=Motion(translate=0.7, size=16), resolution=(32, 32), seed=1)
    for i in range(5):
        write_events(tmp_path / f"{i}.npz", events[:, i], centres[:, i])
    train, test = ShapeEvents(tmp_path, True, t=4, pose_delay=1), ShapeEvents(tmp_path, False, t=4, stack=3)
    assert (len(train), len(test)) == (8, 2)
    item = train[1]
    assert item["frames"].shape == (4, 2, 32, 32)
    torch.testing.assert_close(item["frames"], events[13:17, 0].float())
    torch.testing.assert_close(item["poses"], centres[12:16, 0])
    stacked = test[0]
    assert stacked["warmup"].shape == (4, 6, 32, 32)
    torch.testing.assert_close(stacked["frames"][0, :2], events[2, 4].float())
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=2)))
    assert batch["poses"].shape == (2, 4, 3, 2)
    (tmp_path / ".5.0123abcd.partial.npz").write_bytes(b"half a file")
    assert len(ShapeEvents(tmp_path, True, t=4)) == 8
    with pytest.raises(ValueError, match="sterf make-events"):
        ShapeEvents(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"`pose_delay` 5; .* the delay from 0 to `t`"):
        ShapeEvents(tmp_path, t=4, pose_delay=5)
    with pytest.raises(ValueError, match="frames"):
        ShapeEvents(tmp_path, t=40)


def test_folders_that_are_links(tmp_path):
    """Whoever keeps data on another disk links its folders into one: videos, classes of recordings, images."""
    from sterf_plugins.cli.images import image_files

    events, centres = render(1, 9, resolution=(16, 16))
    (tmp_path / "elsewhere").mkdir()
    write_events(tmp_path / "elsewhere" / "v.h5", events[:, 0], centres[:, 0])
    (tmp_path / "elsewhere" / "v.png").touch()
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "there").symlink_to("../../elsewhere")
        (tmp_path / "data" / label / "circle").symlink_to("..")
    assert len(ShapeEvents(tmp_path / "data", t=4)) == len(EventFolder(tmp_path / "data", T=2)) == 2
    assert len(image_files(str(tmp_path / "data"), 9)) == 2


def test_videos_of_different_lengths(tmp_path):
    """Each video gives as many items as fit into it, whatever the first one's length."""
    for name, frames in (("a.npz", 8), ("b.h5", 25), ("c.npz", 17), ("d.npz", 9)):
        events, centres = render(1, frames, motion=Motion(translate=0.7, size=16), resolution=(32, 32), seed=frames)
        write_events(tmp_path / name, events[:, 0], centres[:, 0])
    train = ShapeEvents(tmp_path, True, t=4)
    assert len(train) == 1 + 3 + 2
    events, centres = read_events(tmp_path / "b.h5")
    torch.testing.assert_close(train[3]["frames"], events[20:24].float())
    torch.testing.assert_close(train[3]["poses"], centres[20:24])
    with pytest.raises(ValueError, match=r"a\.npz has 8 frames"):
        ShapeEvents(tmp_path, True, t=5)


@pytest.mark.parametrize(
    "options",
    [
        *(dict(frames=0), dict(density=2), dict(resolution=(4, 4)), dict(shapes=()), dict(motion=Motion(size=99))),
        *(dict(frames=True), dict(frames=2.5), dict(density=float("nan")), dict(resolution=(32.5, 32))),
    ],
)
def test_bad_input(options):
    with pytest.raises((TypeError, ValueError), match="must be"):
        render(1, **{"frames": 4, "resolution": (32, 32), **options})
    with pytest.raises(ValueError, match=r"`motion.translate` is nan; it must be a finite number"):
        Motion(float("nan"))
