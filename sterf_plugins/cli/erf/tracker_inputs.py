"""Inputs of trackers for ``tools/erf.py``: pairs of a template and a search region."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ...events import Events, Recording, gtp, open_recording, windows
from ...tracking.crops import SEARCH_FACTOR, TEMPLATE_FACTOR, square_crop
from ...tracking.fields import CELL, highest_cell, labelled_pairs
from ...tracking.recordings import RecordedSequence, Scratch, folder_of, labels_beside, layout_in, recording_of
from ...tracking.sd_track import as_input
from ..images import named_recording
from ..loading import Loaded

RATE = 0.4  # random events of a pixel in an image


def tracker_inputs(source: str, loaded: Loaded, count: int, seed: int, peak: bool = False) -> list[dict[str, Tensor]]:
    """Batches of one pair each, as ``compute_erf`` takes them with ``tracking.fields.field_options``.

    Args:
        source: "noise" for images of random events; "val" for the data set of the config's test, or the folder of another one
            in the same layout, where the search region lies around the labelled box, so that the object is in its middle; or a
            recording: with the labels in its folder, or without any, the middle of the sensor, as where nothing has moved.
            The config's ``interval`` says of which images the labels are, as in its data set.
        loaded: the tracker.
        count: number of pairs, or fewer if there are not so many.
        seed: seed of the random events.
        peak: add the cell of the highest score.

    Raises:
        ValueError: the data set cannot be read, or has no box with an area.
    """
    network = loaded.network
    sides = loaded.region_sizes
    if source == "noise":
        rng = np.random.default_rng(seed)
        names = ("template", "search")
        pairs = [
            {name: as_input(_random_image(rng, side, network.T)) for name, side in zip(names, sides, strict=True)}
            for _ in range(count)
        ]
    elif (recording := named_recording(source)) is not None:
        path, sensor = recording
        options = loaded.test_dataset
        sensor = sensor or options.get("sensor")
        pairs = _of_recording(path, count, network.T, sides, sensor, options.get("interval"))
    else:
        from mmengine.registry import DATASETS

        other = {} if source == "val" else dict(data_root=source)
        dataset = DATASETS.build(dict(loaded.config.test_dataloader.dataset, **other))
        pairs = labelled_pairs(dataset.sequences, count, sides)
    device = next(network.parameters()).device
    batches = [{name: region.to(device) for name, region in pair.items()} for pair in pairs]
    return [batch | {CELL: highest_cell(network, **batch)} for batch in batches] if peak else batches


def _random_image(rng: np.random.Generator, side: int, T: int) -> np.ndarray:
    """The fourth event image of random events, uint8 (T, side, side, 3)."""
    times = np.arange(5) * 1000
    number = int(4 * RATE * side**2)
    t, *rest = (np.sort(rng.integers(0, 4000, number)), *(rng.integers(0, n, number) for n in (side, side, 2)))
    events = Events.of(t, *rest)
    recording = Recording(Path("random events"), (side, side), lambda: iter([events]))
    return np.stack([image.pixels for image in gtp(recording, times, T) if image.interval == 3])


def _of_recording(
    path: Path, count: int, T: int, sides: tuple[int, int], sensor: tuple[int, int] | None, interval: int | None
) -> list[dict[str, Tensor]]:
    """Pairs of a recording, around its labelled boxes or the middle of its images.

    ``sensor`` is as in ``open_recording``, and ``interval`` that of the labels as in ``find_recorded_sequences``.
    """
    folder = folder_of(path)
    if layout_in(folder) is not None:
        boxes, first = labels_beside(open_recording(path, sensor), interval)
        labelled = recording_of(folder).path
        if not labelled.samefile(path):
            raise ValueError(
                f"the labels in {folder} are of its recording {labelled.name}; give that one, not {path.name}."
            )
        sequence = RecordedSequence(folder.name, boxes, folder, T, first, interval, Scratch(), sensor)
        return labelled_pairs([sequence], count, sides)
    pairs = []
    for parts in windows(path, count, "gtp", T, sensor):
        pixels = parts.transpose(0, 2, 3, 1).astype(np.uint8)
        side = min(pixels.shape[1:3]) / SEARCH_FACTOR
        box = ((pixels.shape[2] - side) / 2, (pixels.shape[1] - side) / 2, side, side)
        crops = [
            square_crop(pixels, box, factor, size).pixels
            for factor, size in zip((TEMPLATE_FACTOR, SEARCH_FACTOR), sides, strict=True)
        ]
        pairs.append(dict(template=as_input(crops[0]), search=as_input(crops[1])))
    return pairs
