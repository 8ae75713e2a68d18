"""The golden arrays in the repository: small, of every kind, and those of the full set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
KINDS = {
    "spike_function",
    "sepconv",
    "conv_block",
    "attention",
    "mlp",
    "transformer_block",
    "mlpixer_block",
    "srb_block",
    "downsample",
    "backbone",
    "erf_inputs",
    "s_erf",
    "t_erf",
    "st_erf",
}


def test_the_subset_is_small_and_covers_every_kind():
    size = sum(p.stat().st_size for folder in ("sdtv3", "covariant", "sdtrack") for p in (HERE / folder).iterdir())
    assert size <= 6e6
    cases = json.loads((HERE / "sdtv3" / "manifest.json").read_text())["cases"]
    assert {case["kind"] for case in cases} == KINDS
    assert len(list((HERE / "covariant").glob("*.npz"))) >= 12


def test_the_subset_is_that_of_the_full_set(golden, subset):
    if golden.folder == subset.folder:
        pytest.skip("there is no full set of golden arrays here; set STERF_GOLDEN to its folder")
    for packed in subset.folder.glob("*.xz"):
        name = packed.name.removesuffix(".xz")
        ours, theirs = subset.tensors(name), golden.tensors(name)
        assert ours and all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    for path in (*(HERE / "covariant").glob("*.npz"), *(HERE / "sdtrack").glob("*.npz")):
        ours, theirs = np.load(path), np.load(golden.folder.parent / path.parent.name / path.name)
        assert ours.files and all(np.array_equal(ours[k], theirs[k]) for k in ours.files), path.name
