"""Event images against those of the golden recording, and against a loop over events."""

import numpy as np
import pytest
from golden_trackers import arrays

from sterf_plugins.events.gtp import RULES, STEPS, gtp


def recording():
    golden = arrays("gtp")
    t, x, y, p = golden["events"].T
    return (t, x, y, p), golden["frame_timestamps"], tuple(int(n) for n in golden["shape"]), golden


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", RULES)
def test_images_are_the_golden_ones(rule, steps):
    events, times, size, golden = recording()
    images = list(gtp(*events, times, size, steps, rule=rule))
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
