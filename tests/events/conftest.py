"""What several tests of recordings share."""

import numpy as np
import pytest

from sterf_plugins.events import Events


@pytest.fixture
def events():
    rng = np.random.default_rng(3)
    t = np.sort(rng.integers(1_600_000_000_000_000, 1_600_000_000_200_000, 5000))
    return Events.of(t, rng.integers(0, 60, 5000), rng.integers(0, 40, 5000), rng.integers(0, 2, 5000))
