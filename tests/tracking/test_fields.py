"""Receptive fields of trackers: a place of the search region in every layer, over template and search region."""

import pytest
import torch

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.calibrate import tracking_norms
from sterf_plugins.tracking.fields import CELL, LAYERS, field_options, highest_cell
from sterf_plugins.tracking.sd_track import SDTrack

Z, S = 64, 128


def tracker(variant, z=Z, s=S):
    """A small tracker whose norms have statistics, so that its neurons fire, and two pairs."""
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 8, 16, 16), num_heads=2, depths=(1, 1, 1, 1, 1))
    net = SDTrack(arch, head_width=16, variant=variant)
    lead = (2,) if net.T == 1 else (net.T, 2)
    pair = {
        name: 30.0 * torch.poisson(torch.full((*lead, 3, n, n), 0.4)) for name, n in (("template", z), ("search", s))
    }
    for norm in tracking_norms(net):
        norm.momentum = None  # one pass gives its statistics
    with torch.no_grad():
        net.train()(**pair)
    return net.double().eval(), {name: x.double() for name, x in pair.items()}


def gradients(net, pair, row, column):
    """Layer -> entry -> the field at a place of the search region in fractions, by a hook and plain autograd."""
    kept = {}
    z, s = (x.shape[-1] // 16 for x in pair.values())
    handles = [net.get_submodule(n).register_forward_hook(lambda m, a, y, n=n: kept.update({n: y})) for n in LAYERS]
    leaves = {name: x.clone().requires_grad_() for name, x in pair.items()}
    net(**leaves)
    fields = {}
    for name, y in kept.items():
        if "blocks" in name:  # tokens of the template, the search region, and more that make a square map
            unit = y.flatten(2)[..., z * z + int(s * row) * s + int(s * column)].sum()
        else:
            side = y.shape[-1] if "head" in name else y.shape[-1] * s // (z + s)
            unit = y[..., int(side * row), int(side * column)].sum()
        grads = torch.autograd.grad(unit, list(leaves.values()), retain_graph=True, allow_unused=True)
        fields[name] = {k: None if g is None else _mean(g, net.T) for k, g in zip(leaves, grads, strict=True)}
    for handle in handles:
        handle.remove()
    return fields


def close(found, expected):
    return bool((torch.from_numpy(found) - expected).abs().max() < 1e-6 * expected.max())


def _mean(g, T):
    """The mean over channels of absolute values, for each pair; of steps the sum over T."""
    return (g if T == 1 else g.sum(0) / T).abs().mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "z", "s"), [("1x4", Z, S), ("4x1", 48, 64)])
def test_every_layer_is_read_at_the_same_place_of_the_search_region(variant, z, s):
    net, pair = tracker(variant, z, s)
    result = compute_erf(
        net, pair, LAYERS, position=(0.25, 0.75), channels="sum", calibrate=False, **field_options(net, z, s)
    )
    for name, fields in gradients(net, pair, 0.25, 0.75).items():
        for entry, field in fields.items():
            if f"{name}@{entry}" in result.failed:
                assert field is None or not field.any()
                continue
            assert close(result.spatial[f"{name}@{entry}"], field.mean(0)), (name, entry)
    assert result.spatial["head.branches.score@template"].shape == (z, z)
    assert result.spatial["head.branches.score@search"].shape == (s, s)


@pytest.mark.slow
def test_each_pair_has_its_own_cell():
    net, pair = tracker("1x4")
    cells = torch.tensor([[1, 6], [5, 2]])
    result = compute_erf(
        net, {**pair, CELL: cells}, LAYERS, channels="sum", calibrate=False, batch_size=2, **field_options(net, Z, S)
    )
    places = [gradients(net, pair, row / 8, column / 8) for row, column in cells.tolist()]
    for name in ("backbone.stages.4.blocks", "head.branches.score"):
        for entry in pair:
            expected = torch.stack([places[i][name][entry][i] for i in range(2)]).mean(0)
            assert close(result.spatial[f"{name}@{entry}"], expected), (name, entry)


def test_the_highest_cell_is_that_of_the_score():
    net, pair = tracker("1x4")
    with torch.no_grad():
        score = net(**pair).score[:, 0]
    assert highest_cell(net, **pair).tolist() == [list(divmod(int(one.argmax()), 8)) for one in score]


@pytest.mark.slow
def test_the_target_is_a_place_of_the_search_region_alone():
    net, pair = tracker("1x4")
    result = compute_erf(net, pair, LAYERS[2:], calibrate=False, **field_options(net, Z, S))
    assert result.info["without_target"] == [name for name in result.layers if name.endswith("@template")] != []
    assert all(("centre_mass" in result.numbers(name)) == name.endswith("@search") for name in result.layers)
