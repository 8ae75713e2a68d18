"""Images for a model: from a folder, from a config's validation set, or noise."""

import argparse
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..erf.sweep import resized
from ..events import windows
from ..events.arrays import sensor_size
from ..events.readers import FORMATS
from ..events.representations import on_white
from ..files import files_below
from .examples import photographs
from .loading import Loaded

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def image_files(folder: str, limit: int) -> list[Path]:
    """Up to ``limit`` image files of a folder and its subfolders, evenly spread over them in order of name.

    Raises:
        ValueError: there is no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        found = "this is a file" if root.exists() else "no such folder"
        raise ValueError(
            f"--images {folder}: {found}. Give a folder of images, a recording of events, 'noise', 'val' or 'photographs'."
        )
    files = _images_below(root)
    if not files:
        raise ValueError(f"--images {folder}: no image in it; suffixes: {', '.join(SUFFIXES)}.")
    return _evenly(files, limit)


def _images_below(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, in order of name."""
    return sorted(p for p in files_below(folder) if p.suffix.lower() in SUFFIXES and p.is_file())


def _evenly(files: list[Path], limit: int) -> list[Path]:
    """Up to ``limit`` of the files, evenly spread over them."""
    count = min(limit, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def named_images(sources: Sequence[str], leave_out: Path) -> dict[str, Path]:
    """The image files that files, folders (with their subfolders) and glob patterns name, each once.

    Args:
        sources: what the user has given.
        leave_out: a folder whose files are none of them, since results are written there.

    Returns:
        A name for each file's results -> the file. It is the file's name without suffix, behind its subfolders of a
        folder that was given; a number tells files of the same name apart.

    Raises:
        ValueError: there is no such file, folder or match, or no image in a folder.
    """
    names: dict[str, Path] = {}
    seen = set()
    for source in sources:
        root = Path(source)
        if root.is_dir():
            files = [p for p in _images_below(root) if leave_out.resolve() not in p.resolve().parents]
        else:
            files = [root] if root.is_file() else sorted(map(Path, glob(source, recursive=True)))
        if not files:
            raise ValueError(
                f"{source}: no image there. Give image files, folders or patterns; suffixes: {', '.join(SUFFIXES)}."
            )
        for path in files:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            name = path.relative_to(root).with_suffix("").as_posix() if root.is_dir() else path.stem
            candidates = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
            names[next(n for n in candidates if n not in names)] = path
    return names


def from_files(files: list[Path], loaded: Loaded, size: tuple[int, int], squash: bool = False) -> Iterator[Tensor]:
    """The images as normalised (1, C, H, W) tensors, resized to cover ``size`` (H, W) and cropped to its middle.

    With ``squash`` they are resized to ``size`` whatever their shape, and nothing is cropped.

    Raises:
        ValueError: a file is not a readable image, or it has more than 8 bits per channel; the message names it.
    """
    from PIL import Image, UnidentifiedImageError

    channels = len(loaded.mean)
    for path in files:
        try:
            with Image.open(path) as file:
                mode, image = file.mode, file.convert("RGB" if channels == 3 else "L")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"{path} is no readable image ({error}); remove it or give another folder.") from error
        if mode.startswith(("I", "F")):  # Pillow would cut off all values above 255
            raise ValueError(f"{path} has more than 8 bits per channel; give 8-bit images.")
        if squash:
            image = image.resize((size[1], size[0]))
        scale = max(size[0] / image.height, size[1] / image.width)
        image = image.resize((max(size[1], round(image.width * scale)), max(size[0], round(image.height * scale))))
        left, top = (image.width - size[1]) // 2, (image.height - size[0]) // 2
        pixels = np.asarray(image.crop((left, top, left + size[1], top + size[0])), np.float32)
        tensor = torch.from_numpy(pixels.reshape(*size, -1)).permute(2, 0, 1)
        tensor = tensor.flip(0) if loaded.bgr else tensor
        yield ((tensor - _column(loaded.mean)) / _column(loaded.std))[None]


def add_image_options(p: argparse.ArgumentParser, sources: str, num: int) -> None:
    """Add the options for the images that a tool gives a model.

    Args:
        p: the parser.
        sources: what ``--images`` takes, for its help.
        num: default of ``--num``.
    """
    p.add_argument(
        "--images",
        default="noise",
        metavar=sources,
        help="inputs (default: standard normal noise); photographs: twelve of the extra [examples]",
    )
    p.add_argument("--num", type=int, default=num, help="number of inputs (default %(default)s)")
    p.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own size")


def inputs_for(
    source: str, loaded: Loaded, size: tuple[int, int], count: int, seed: int, squash: bool = False
) -> Iterator[Tensor]:
    """The images that ``--images`` of a tool names, as (1, C, H, W) tensors.

    Args:
        source: "noise", "val" for the config's validation set, "photographs" for those of the extra ``examples``, a
            recording of events as ``named_recording`` takes it, or a folder.
        loaded: the model, which decides on normalisation and channels.
        size: (H, W) to which images are resized.
        count: number of images, or fewer if there are not so many.
        seed: seed of the noise.
        squash: whether images of a folder are resized to ``size`` whatever their shape, instead of cropped to it.

    Raises:
        ValueError: the folder has no readable images, the model comes without validation data, or the photographs are not
            installed.
    """
    if source == "noise":
        return noise(count, len(loaded.mean), size, seed)
    if source == "val":
        return validation_images(loaded, count, size)
    if (recording := named_recording(source)) is not None:
        return from_recording(*recording, loaded, size, count)
    files = _evenly(photographs(), count) if source == "photographs" else image_files(source, count)
    return from_files(files, loaded, size, squash)


def joined(images: Iterable[Tensor]) -> Tensor:
    """Images as one batch: (N, C, H, W), or (T, N, C, H, W) of those with time steps."""
    parts = list(images)
    return torch.cat(parts, parts[0].ndim - 4)


def named_recording(source: str) -> tuple[Path, tuple[int, int] | None] | None:
    """The recording of events that ``--images`` names, and the (height, width) of its sensor, if that is said behind it.

    "old.raw@480x640" says it, for a file that does not; ``None`` where no recording is named.

    Raises:
        ValueError: it is no size of a sensor.
    """
    path, height, width = re.fullmatch(r"(.+?)(?:@(\d+)x(\d+))?", source, re.DOTALL).groups()  # type: ignore[union-attr]
    if Path(path).suffix.lower() not in FORMATS:
        return None
    return Path(path), sensor_size((int(height), int(width)), f"--images {source}") if height else None


def from_recording(
    path: Path, sensor: tuple[int, int] | None, loaded: Loaded, size: tuple[int, int], count: int
) -> Iterator[Tensor]:
    """Windows of a recording of events, evenly spread over it: (1, C, H, W), or (T, 1, C, H, W) of a config with time steps.

    They are drawn as the config's ``LoadEvents`` says, or for a model without one by its channels: histograms for two, event
    images with a trajectory for three, voxel grids otherwise. Without ``sensor`` its size is the config's, if that has one.
    """
    dataset = loaded.test_dataset
    drawn = next((t for t in dataset.get("pipeline", ()) if str(t["type"]).endswith("LoadEvents")), None)
    if drawn is not None:
        options = {name: value for name, value in drawn.items() if name not in ("type", "representation")}
        kind = drawn.get("representation", "histogram")
    else:
        channels = len(loaded.mean)
        kind = {2: "histogram", 3: "gtp"}.get(channels, "voxel_grid")
        options = dict(bins=channels) if kind == "voxel_grid" else {}
    for images in windows(path, count, kind, sensor=sensor or dataset.get("sensor"), **options):
        x = torch.from_numpy(images)
        x = x.unsqueeze(1) if loaded.time_steps > 1 else x.flatten(0, 1).unsqueeze(0)
        yield resized(x, size)


def noise(count: int, channels: int, size: tuple[int, int], seed: int) -> Iterator[Tensor]:
    """``count`` standard normal (1, C, H, W) tensors; the same ones for every model with the same channels and size."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(1, channels, *size, generator=generator)


def validation_images(loaded: Loaded, count: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """Up to ``count`` images of the config's validation set, evenly spread over it, as (1, C, H, W) tensors.

    Raises:
        ValueError: the model does not come from a config with a validation set, or the data is missing.
    """
    if loaded.config is None or not loaded.config.get("val_dataloader"):
        raise ValueError(f"--images val needs a config with a val_dataloader; {loaded.label} has none.")
    from mmengine.registry import DATASETS

    from ..openmmlab.configs.data_checks import check_data
    from ..openmmlab.runtime.dataset_images import from_dataset, spread

    try:
        check_data(loaded.config, "val")
    except ValueError as error:  # what it advises are options of a training
        raise ValueError(str(error).replace("--cfg-options ", "in a config of your own, ")) from error
    dataset = DATASETS.build(loaded.config.val_dataloader.dataset)
    return from_dataset(dataset, loaded.model.data_preprocessor, spread(count, dataset), size)


def displayed(tensor: Tensor, loaded: Loaded) -> np.ndarray:
    """The first image of a normalised batch (B, C, H, W), as an RGB picture (H, W, 3) with values in [0, 1].

    Events, which are no colours or have a time axis, are grey on white.
    """
    if tensor.ndim > 4 or tensor.shape[-3] not in (1, 3):
        return np.repeat(on_white(tensor.flatten(0, -3).cpu().numpy())[..., None], 3, -1)
    image = tensor[0].cpu() * _column(loaded.std) + _column(loaded.mean)
    image = (image.flip(0) if loaded.bgr else image) / 255
    return image.expand(3, *image.shape[1:]).permute(1, 2, 0).clamp(0, 1).numpy()


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
