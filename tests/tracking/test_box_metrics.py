"""Success, precision and normalised precision against two toolkits."""

import numpy as np
import pytest
from golden_trackers import arrays

from sterf_plugins.tracking.box_metrics import PROTOCOLS, curves, mean_curves


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_curves_are_those_of_the_toolkits(protocol):
    golden = arrays("metrics")
    name = {"toolkit": "toolkit", "ostrack": "python"}[protocol]
    found = []
    for i in range(4):
        one = curves(golden[f"pred{i}"], golden[f"gt{i}"], golden[f"absent{i}"], protocol)
        for curve in ("success", "precision", "norm_precision"):
            wanted = golden[f"{name}_{curve}{i}"]
            assert np.ptp(wanted) > 0
            assert getattr(one, curve) == pytest.approx(wanted / (100 if wanted.max() > 1 else 1), abs=1e-9), curve
        found.append(one)
    numbers = mean_curves(found).numbers()
    for key in ("AUC", "PR", "NPR"):
        assert numbers[key] == pytest.approx(float(golden[f"{name}_{key}"]), abs=1e-9)
