"""Recordings of real cameras, which lie beside the full golden arrays, and when two recordings are the same."""

import os
from pathlib import Path

import numpy as np
import pytest

from sterf_plugins.events import Events

REAL = (
    Path(os.environ.get("STERF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden")).parent
    / "real_events"
)


def real(name: str) -> Path:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def same(a: Events, b: Events) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
