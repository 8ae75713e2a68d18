"""Crops, targets in crops and steps of a tracker against the release's."""

import numpy as np
import pytest
import torch
from golden_trackers import arrays, tracker

from sterf_plugins.tracking.crops import box_in_crop, box_in_image, square_crop
from sterf_plugins.tracking.follow import Follower


@pytest.mark.parametrize("kind", ["template", "search"])
@pytest.mark.parametrize("i", range(5))
def test_crops_are_those_of_the_release(kind, i):
    golden = arrays("crops")
    factor, size = (2, 128) if kind == "template" else (4, 256)
    crop = square_crop(golden["image"], golden["boxes"][i], factor, size)
    wanted = golden[f"{kind}{i}_crop_every2"]
    assert crop.scale == pytest.approx(float(golden[f"{kind}{i}_resize_factor"]), rel=1e-12)
    difference = np.abs(crop.pixels[::2, ::2].astype(int) - wanted)
    assert wanted.std() > 0 and difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    assert (crop.outside[::4, ::4] == golden[f"{kind}{i}_outside_every4"]).all()


def test_boxes_in_crops():
    golden = arrays("crops")
    for box, jittered, wanted in zip(golden["boxes"], golden["jittered"], golden["gt_in_crop"], strict=True):
        crop = square_crop(golden["image"], jittered, 4, 256)
        assert box_in_crop(box, jittered, crop.scale, 256) == pytest.approx(wanted, abs=1e-6)


def test_a_box_goes_to_the_crop_and_back():
    """Training takes (size - 1) / 2 for the centre of a crop and a test size / 2, half a pixel of the crop apart."""
    box, state = np.array([100.0, 80, 40, 30]), np.array([110.0, 70, 36, 36])
    scale = 256 / 144
    x, y, w, h = box_in_crop(box, state, scale, 256)
    back = box_in_image((x + w / 2, y + h / 2, w, h), state, scale, 256, (260, 346))
    assert back == pytest.approx(box - [0.5 / scale, 0.5 / scale, 0, 0])


def test_steps_are_those_of_the_release():
    golden = arrays("track_step")  # computed in float32, in which two of the five crops round a spike the other way
    net = tracker("1x4_conv")[0].float()
    follower = Follower(net, golden["images"][0], golden["init_box"])
    for image, before, after, text in zip(
        golden["images"], golden["state_in"], golden["state_out"], golden["saved_as_text"], strict=True
    ):
        follower.box = before
        step = follower.step(image)
        assert step.box == pytest.approx(after, abs=1e-2) and step.score.std() > 0
        assert (step.box.astype(int) == text).all()


def test_bad_input():
    image = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ValueError, match="the square around it would have a side of 0 pixels"):
        square_crop(image, (1, 1, 0, 5), 2, 128)
    assert square_crop(image, (500, 500, 10, 10), 2, 128).outside.all()  # nothing of it in the image
    net, _ = tracker("4x1_conv")
    with pytest.raises(ValueError, match=r"takes uint8 \(4, H, W, 3\)"):
        Follower(net, image, (1, 1, 5, 5))
    images = np.stack([image] * 4)
    assert torch.is_tensor(Follower(net, images, (1, 1, 5, 5)).template)
    for arguments, message in (
        ((3, images, (1, 1, 5, 5)), "`network` is 3"),
        ((net, image[..., 0], (1, 1, 5, 5)), r"`image` is uint8 \(40, 60\)"),
        ((net, torch.zeros(4, 40, 60, 3), (1, 1, 5, 5)), "`image` is a Tensor"),
        ((net, images, (1, 1, 5)), r"`box` is \(1, 1, 5\); it must be four numbers"),
        ((net, images, "1 1 5 5"), "`box` is '1 1 5 5'"),
        ((net, images, (1, 1, 5, 5), 0), "`template_size` is 0"),
        ((net, images, (1, 1, 5, 5), 128, 255.5), "`search_size` is 255.5"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Follower(*arguments)
    far = ((0, 0, 1e300, 1e300), (np.nan, 1, 5, 5), (-np.inf, 1, 5, 5))
    for box in ((0, 0, 1e9, 1e9), (1, 1, 1e-200, 1e-200), *far):
        with pytest.raises(ValueError, match=r"pixels; it must be from 1 to 16,384"):
            square_crop(np.zeros((8, 8, 3), np.uint8), box, 2, 16)


@pytest.mark.parametrize(
    "box",
    [
        *((1, 2, 0, 4), (1, 2, -3, 4), (float("nan"), 2, 3, 4), (1, 2, float("inf"), 4), (90, 2, 3, 4), (-9, 2, 9, 4)),
        *((1, 2, 1e-9, 1e-9), (0, 0, 1e300, 1e300)),
    ],
)
def test_a_box_to_begin_with_must_lie_in_the_image(box):
    net, _ = tracker("1x4_conv")
    with pytest.raises(
        ValueError, match=r"`box` is .*; it must have a width and height of at least a pixel, and lie in 80 x 60"
    ):
        Follower(net, np.zeros((60, 80, 3), np.uint8), box, 64, 128)


def test_diverged_weights_are_named():
    net, _ = tracker("1x4_conv")
    follower = Follower(net, np.zeros((60, 80, 3), np.uint8), (10, 10, 9, 9), 64, 128)
    torch.nn.init.constant_(net.head.branches["size"][-1].bias, float("nan"))
    with pytest.raises(ValueError, match=r"the network gives the box \[.*nan\]: its weights have diverged"):
        follower.step(np.zeros((60, 80, 3), np.uint8))


def test_images_of_another_size_are_refused():
    net, _ = tracker("1x4_conv")
    follower = Follower(net, np.zeros((60, 80, 3), np.uint8), (10, 10, 9, 9), 64, 128)
    with pytest.raises(ValueError, match=r"`image` is of shape \(30, 80, 3\), and the first one of \(60, 80, 3\)"):
        follower.step(np.zeros((30, 80, 3), np.uint8))
