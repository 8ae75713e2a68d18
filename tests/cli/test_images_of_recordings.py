"""Windows of a recording as images of a model: what its config says of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from sterf_plugins.cli.images import from_recording
from sterf_plugins.cli.loading import Loaded


class Config(dict):
    model = SimpleNamespace(get=lambda *_: None)


@pytest.mark.parametrize("sensor", [None, (40, 40)])
def test_the_size_of_the_sensor_is_the_configs(tmp_path, sensor):
    rng = np.random.default_rng(0)
    x, y, p = (rng.integers(0, limit, 500) for limit in (20, 20, 2))
    np.savez(tmp_path / "a.npz", t=np.arange(500), x=x, y=y, p=p)
    config = Config(test_dataloader=dict(dataset=dict(sensor=sensor)))
    loaded = Loaded("a model", None, (40, 40), (0.0, 0.0), (1.0, 1.0), config=config)
    (image,) = from_recording(str(tmp_path / "a.npz"), loaded, (40, 40), 1)
    assert image[..., :20, :20].any() and bool(image[..., 20:].any()) == (sensor is None)
