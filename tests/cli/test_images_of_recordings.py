"""Windows of a recording as images of a model: the size of its sensor."""

from types import SimpleNamespace

import numpy as np
import pytest

from sterf_plugins.cli.images import inputs_for
from sterf_plugins.cli.loading import Loaded


class Config(dict):
    model = SimpleNamespace(get=lambda *_: None)


def image(source: str, sensor: tuple[int, int] | None):
    """The image of a model, whose config says the size of the sensor, or which has no config."""
    config = None if sensor is None else Config(test_dataloader=dict(dataset=dict(sensor=sensor)))
    (found,) = inputs_for(
        source, Loaded("a model", None, (40, 40), (0.0, 0.0), (1.0, 1.0), config=config), (40, 40), 1, 0
    )
    return found


@pytest.mark.parametrize(
    ("behind", "sensor", "whole"),
    [("", None, True), ("", (40, 40), False), ("@40x40", None, False), ("@20x20", (40, 40), True)],
)
def test_the_size_of_the_sensor_is_the_configs_or_stands_behind_the_file(tmp_path, behind, sensor, whole):
    rng = np.random.default_rng(0)
    x, y, p = (rng.integers(0, limit, 500) for limit in (20, 20, 2))
    np.savez(tmp_path / "a.npz", t=np.arange(500), x=x, y=y, p=p)
    found = image(f"{tmp_path / 'a.npz'}{behind}", sensor)
    assert found[..., :20, :20].any() and bool(found[..., 20:].any()) == whole


def test_wrong_sizes(tmp_path):
    np.savez(tmp_path / "a.npz", t=[1, 2, 3], x=[5, 6, 30], y=[1, 2, 3], p=[0, 1, 1])
    for size, message in (
        ("0x9", r"`--images .*a.npz@0x9` is 0; it must be an int >= 1"),
        ("20x20", "a.npz: event 2 has x=30, outside the sensor of 20 columns and 20 rows"),
        ("20", "--images .*a.npz@20: no such folder"),
    ):
        with pytest.raises(ValueError, match=message):
            image(f"{tmp_path / 'a.npz'}@{size}", None)
