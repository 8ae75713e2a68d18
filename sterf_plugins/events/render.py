"""Event videos of shapes that move, grow, turn and shear.

A camera pixel integrates changes of brightness and emits an event when they reach a threshold. Here a shape is covered
by sub-pixel samples, once per frame and for all videos at once; coverage of consecutive frames is subtracted,
integrated, and reset by the threshold that was reached, at most one event per pixel and frame.

The events have the semantics of the generator that the covariant paper used (Nat. Commun. 16:8231, 2025); the code is
written from a description of it. Channel 0 fires where brightness falls, channel 1 where it rises.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import entries, finite_number, number, one_of, positive_int, whole_number
from .arrays import sensor_size
from .shapes import SHAPES, raster

THRESHOLD = 0.5
_START = 0.45  # each pixel's integrator starts at a random value between minus and plus this
_WARM_UP = 6  # frames that are computed and left out at the start
_BACKGROUND = 0.5  # probability of a background event per pixel and polarity, in units of `background`
_SHEAR_LIMIT = math.radians(30)


@dataclass(frozen=True)
class Motion:
    """How the shapes of a video move. The sign of each velocity is drawn at random, for every shape on its own.

    Args:
        translate: movement along each axis, in pixels per frame; both axes have their own sign.
        scale: change of the size, in pixels per frame.
        rotate: rotation, in degrees per frame.
        shear: change of the shear angle, in degrees per frame.
        size: size of the shapes at the start, in pixels; ``None`` for a third of the video's shorter side.
        angle: angle of the shapes at the start, in degrees; ``None`` to draw it at random.
    """

    translate: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    size: float | None = None
    angle: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                finite_number(f"motion.{name}", value)


def render(
    videos: int,
    frames: int = 128,
    resolution: tuple[int, int] = (300, 300),
    motion: Motion | None = None,
    shapes: tuple[str, ...] = SHAPES,
    density: float = 1.0,
    background: float = 0.001,
    upsampling: int = 4,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Render event videos of moving shapes. Each shape is rendered by itself, and the events of all are joined.

    Args:
        videos: number of videos, all of which are rendered at once.
        frames: T, number of frames of each video.
        resolution: (rows, columns) in pixels.
        motion: velocities and sizes; ``None`` for shapes that stand still.
        shapes: names of the shapes in each video, in the order of the returned centres.
        density: probability with which an event is kept, in [0, 1]; one draw decides for both polarities.
        background: amount of noise, in [0, 1]: in each frame, every shape adds an event with half this probability at
            every pixel and polarity.
        upsampling: samples per pixel along each axis, from which the share that a shape covers is computed.
        seed: seed of all that is drawn at random; ``None`` for a new one.
        device: device to compute on.
        progress: function that is called with (frames done, number of frames) after each frame.

    Returns:
        Events, bool (T, videos, 2, rows, columns), and centres, float32 (T, videos, shapes, 2) as (row, column).

    Raises:
        ValueError: an argument is out of range.
    """
    motion = motion or Motion()
    check_video(videos, frames, resolution, motion, shapes, density, background, upsampling)
    rows, columns = resolution
    size = min(resolution) / 3 if motion.size is None else float(motion.size)
    generator = torch.Generator(device).manual_seed(torch.seed() if seed is None else whole_number("seed", seed))

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator, device=device)

    def signs(*shape):
        return torch.randint(0, 2, shape, generator=generator, device=device) * 2.0 - 1

    each = (videos, len(shapes))
    sizes = torch.full(each, size, device=device)
    margin = 5 + sizes / 2
    limits = torch.tensor(resolution, device=device, dtype=torch.float32)
    low, high = margin[..., None], limits - 1 - margin[..., None]
    high = torch.maximum(high, low)
    centre = low + (high - low) * uniform(0, 1, *each, 2)
    velocity = motion.translate * signs(*each, 2)
    angle = uniform(0, 2 * math.pi, *each) if motion.angle is None else torch.full(each, math.radians(motion.angle))
    angle = angle.to(device)
    shear = torch.zeros(each, device=device)
    growth, turn, shearing = motion.scale * signs(*each), motion.rotate * signs(*each), motion.shear * signs(*each)
    turn, shearing = turn * math.pi / 180, shearing * math.pi / 180

    membrane = uniform(-_START, _START, *each, rows, columns)
    before = None
    events = torch.zeros(frames, videos, 2, rows, columns, dtype=torch.bool, device=device)
    centres = torch.zeros(frames, *each, 2, device=device)
    for n in range(-_WARM_UP - 1, frames):
        coverage = _coverage(shapes, centre, sizes, angle, shear, resolution, upsampling)
        if before is not None:
            membrane = membrane + before - coverage
            fired = torch.stack([membrane > THRESHOLD, membrane < -THRESHOLD], 2)
            membrane = membrane - THRESHOLD * fired[:, :, 0].float() + THRESHOLD * fired[:, :, 1].float()
            if n >= 0:
                if density < 1:
                    fired = fired & (uniform(0, 1, *each, 1, rows, columns) < density)
                if background:
                    fired = fired | (uniform(0, 1, *each, 2, rows, columns) < _BACKGROUND * background)
                events[n] = fired.any(1)
                centres[n] = centre
                if progress is not None:
                    progress(n + 1, frames)
        before = coverage
        centre, velocity = _bounced(centre + velocity, velocity, low, high)
        sizes, growth = _bounced(sizes + growth, growth, 0.05 * min(resolution), 0.7 * min(resolution))
        shear, shearing = _bounced(shear + shearing, shearing, -_SHEAR_LIMIT, _SHEAR_LIMIT)
        angle = angle + turn
    return events, centres


def _bounced(value: Tensor, velocity: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Reflect values that have left [low, high], and reverse their velocities."""
    low, high = (torch.as_tensor(v, dtype=value.dtype, device=value.device).expand_as(value) for v in (low, high))
    below, above = value < low, value > high
    value = torch.where(below, 2 * low - value, torch.where(above, 2 * high - value, value))
    return torch.minimum(torch.maximum(value, low), high), torch.where(below | above, -velocity, velocity)


def _coverage(
    shapes: tuple[str, ...], centre: Tensor, sizes: Tensor, angle: Tensor, shear: Tensor, resolution, upsampling: int
) -> Tensor:
    """Share of each pixel that a shape covers, (videos, shapes, rows, columns). Only pixels near it are sampled."""
    rows, columns = resolution
    videos = len(centre)
    result = torch.zeros(videos, len(shapes), rows, columns, device=centre.device)
    offsets = (torch.arange(upsampling, device=centre.device) + 0.5) / upsampling - 0.5
    reach = math.ceil(sizes.max().item() * 0.75 * (1 + math.tan(_SHEAR_LIMIT))) + 2
    height, width = min(rows, 2 * reach), min(columns, 2 * reach)
    # A window around each centre that holds the whole shape, moved into the image where it leaves it.
    top = (centre[..., 0].round() - height // 2).clamp(0, rows - height).long()
    left = (centre[..., 1].round() - width // 2).clamp(0, columns - width).long()
    y = top[..., None] + torch.arange(height, device=centre.device)
    x = left[..., None] + torch.arange(width, device=centre.device)
    fine_y = (y[..., None] + offsets).flatten(-2) - centre[..., 0:1]
    fine_x = (x[..., None] + offsets).flatten(-2) - centre[..., 1:2]
    c, s = (f(angle)[..., None, None] for f in (torch.cos, torch.sin))
    px, py = fine_x[..., None, :], fine_y[..., :, None]
    u, v = c * px + s * py, c * py - s * px
    u = (u - shear.tan()[..., None, None] * v) / sizes[..., None, None]
    v = v / sizes[..., None, None]
    index = torch.arange(videos, device=centre.device)[:, None, None]
    for k, shape in enumerate(shapes):
        inside = raster(shape, u[:, k], v[:, k])
        share = inside.unflatten(-1, (width, upsampling)).unflatten(-3, (height, upsampling)).mean((-3, -1))
        result[:, k][index, y[:, k, :, None], x[:, k, None, :]] = share
    return result


def check_video(
    videos: int,
    frames: int,
    resolution: tuple[int, int],
    motion: Motion,
    shapes: Sequence[str] = SHAPES,
    density: float = 1.0,
    background: float = 0.001,
    upsampling: int = 4,
) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these are arguments of ``render``."""
    if not isinstance(motion, Motion):
        raise TypeError(
            f"`motion` is {motion!r} ({type(motion).__name__}); it must be a Motion: Motion(translate=0.5)."
        )
    for name, value in (("videos", videos), ("frames", frames), ("upsampling", upsampling)):
        positive_int(name, value)
    for name, value, least in (
        ("resolution", min(sensor_size(resolution)), 8),
        ("shapes", len(entries("shapes", shapes)), 1),
    ):
        if value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
    for shape in shapes:
        one_of("shapes", shape, SHAPES)
    for name, part in (("density", density), ("background", background)):
        number(name, part, lambda share: 0 <= share <= 1, "a number in [0, 1]")
    if motion.size is not None and not 0 < motion.size <= 0.7 * min(resolution):
        raise ValueError(f"`motion.size` is {motion.size} pixels; it must be in (0, {0.7 * min(resolution):g}] here.")
