"""Estimates over inputs: errors, stopping, and what the model is left like."""

import copy
import random

import numpy as np
import pytest
import torch
from scaled import Scale, scaled
from torch import nn
from torch.utils.checkpoint import checkpoint

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import ERFResult, compute_erf
from sterf_plugins.erf.numbers.estimate import Estimate

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


def test_standard_errors_are_those_of_the_mean():
    x = scaled(40)
    result = compute_erf(nn.Sequential(Scale()), x, "0")
    values = 2 * x[:, 0, 2, 2].numpy()
    assert result.spatial["0"][2, 2] == pytest.approx(values.mean())
    assert result.spatial_error["0"][2, 2] == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=1e-4)
    assert result.info["relative_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(40) / values.mean(), rel=1e-4)
    single = compute_erf(nn.Sequential(Scale()), x[:1], "0")
    assert np.isnan(single.spatial_error["0"]).all() and np.isnan(single.numbers("0")["r50"].error)


@pytest.mark.slow
def test_errors_of_numbers_shrink_with_the_inputs():
    torch.manual_seed(0)
    model = SDTV3(NANO, "conv")
    x = torch.randn(40, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    few, many = (compute_erf(model, x[:n], "stages.1").numbers("stages.1") for n in (10, 40))
    assert 0 < many["r90"].error < few["r90"].error
    assert abs(many["area_50"].value - few["area_50"].value) < 4 * few["area_50"].error


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_aggregates(aggregate):
    x = scaled(31)
    x[0, 0, 2, 2] = 1000  # an outlier
    value = compute_erf(nn.Sequential(Scale()), x, "0", aggregate=aggregate).spatial["0"][2, 2]
    assert value == pytest.approx(float(getattr(np, aggregate)(2 * x[:, 0, 2, 2].numpy())), rel=1e-5)
    assert (value < 4) == (aggregate == "median")


@pytest.mark.parametrize(("normalize", "reduced"), [("max", np.max), ("sum", np.sum)])
def test_normalisation(normalize, reduced):
    model = SDTV3(NANO)
    x = torch.randn(4, 3, 32, 32)
    plain, scaled_ = (compute_erf(model, x, "stages.1", normalize=n) for n in (None, normalize))
    field = plain.spatial["stages.1"]
    assert reduced(scaled_.spatial["stages.1"]) == pytest.approx(1, rel=1e-5)
    assert np.allclose(scaled_.spatial_error["stages.1"], plain.spatial_error["stages.1"] / reduced(field), rtol=1e-4)
    ours, theirs = (r.numbers("stages.1")["r50"] for r in (plain, scaled_))
    assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-4)


def test_stop_when_the_error_is_small_enough():
    def endless():
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.rand(2, 1, 5, 5, generator=generator) + 0.5

    result = compute_erf(nn.Sequential(Scale()), endless(), "0", tolerance=0.05)
    assert result.info["converged"] and result.info["relative_error"] < 0.05
    assert 8 <= result.info["num_inputs"] < 200
    loose = compute_erf(nn.Sequential(Scale()), scaled(9), "0", tolerance=1e-6)
    assert not loose.info["converged"] and loose.info["num_inputs"] == 9
    with pytest.raises(ValueError, match="`tolerance` is 5"):
        compute_erf(nn.Sequential(Scale()), scaled(2), "0", tolerance=5)


def test_channels():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    model[0].weight.data = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1)
    x = scaled(3)
    values = {c: compute_erf(model, x, "0", channels=c).spatial["0"][2, 2] for c in ("sum", "per-channel", 64)}
    assert values["sum"] == 2 and values["per-channel"] == 4
    assert 2 < values[64] < 4  # the mean of |1 - 3| and |1 + 3| over random signs
    again = compute_erf(model, x, "0", channels=64).spatial["0"][2, 2]
    assert again == values[64] and compute_erf(model, x, "0", channels=64, seed=1).spatial["0"][2, 2] != again
    for bad in ("all", 0, True):
        with pytest.raises(ValueError, match="`channels` is"):
            compute_erf(model, x, "0", channels=bad)


def test_lists_of_positions_are_averaged():
    field = compute_erf(nn.Sequential(nn.Identity()), scaled(2), "0", position=[(0, 0), (0.99, 0.0)]).spatial["0"]
    assert field[0, 0] == field[4, 0] == 0.5 and field.sum() == 1


def test_branch_and_block():
    model = SDTV3(NANO)
    x = torch.randn(2, 3, 32, 32)
    branch = compute_erf(model, x, "stages.3.blocks.*.sep_conv")
    assert branch.layers == [f"stages.3.blocks.{i}.sep_conv" for i in range(6)]
    block = compute_erf(model, x, "stages.3.blocks.*.sep_conv", target="block")
    assert block.layers == [f"stages.3.blocks.{i}" for i in range(6)]
    with pytest.raises(ValueError, match="'head' is in no list of blocks"):
        compute_erf(SDTV3(NANO, num_classes=3), x, "head", target="block")


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_a_result_keeps_everything_in_its_file(tmp_path, aggregate):
    x = torch.randn(3, 4, 1, 9, 9)
    result = compute_erf(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.randn(4, 1, 9, 9), "0", aggregate=aggregate)
    again = ERFResult.load(result.save(tmp_path / "a.npz"))
    assert again.numbers("0") == result.numbers("0")
    assert np.array_equal(again.spatial_error["0"], result.spatial_error["0"])
    timed = compute_erf(nn.Sequential(nn.Identity()), x, "0", aggregate=aggregate)
    again = ERFResult.load(timed.save(tmp_path / "b.npz"))
    for kind in ("spatial", "temporal", "spatiotemporal", "temporal_error"):
        assert np.array_equal(getattr(again, kind)["0"], getattr(timed, kind)["0"])
    assert again.rows()[0]["layer"] == "0" and "mean_lag_error" in again.rows()[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_parameter_type(dtype):
    model, x = SDTV3(NANO), torch.randn(16, 3, 32, 32)
    reference = compute_erf(model, x, "stages.1").spatial["stages.1"]
    field = compute_erf(model.to(dtype), x, "stages.1").spatial["stages.1"]
    assert field.dtype == np.float32 and next(model.parameters()).dtype == dtype
    assert np.corrcoef(field.ravel(), reference.ravel())[0, 1] > 0.9


def test_autocast_is_off_inside():
    model, x = SDTV3(NANO), torch.randn(2, 3, 32, 32)
    plain = compute_erf(model, x, "stages.1").spatial["stages.1"]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert np.array_equal(compute_erf(model, x, "stages.1").spatial["stages.1"], plain)


class Checkpointed(nn.Module):
    """As mmengine's activation checkpointing does: a wrapped forward, re-entrant, without a flag."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.flagged = nn.Conv2d(1, 1, 1)
        self.with_cp = True

    def forward(self, x):
        x = checkpoint(self.conv, x, use_reentrant=True)
        return checkpoint(self.flagged, x, use_reentrant=True) if self.with_cp else self.flagged(x)


def everything(model):
    return dict(
        training=[m.training for m in model.modules()],
        requires_grad=[p.requires_grad for p in model.parameters()],
        grad=[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        state={k: v.clone() for k, v in model.state_dict().items()},
        hooks=[(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        flags=[getattr(m, "with_cp", None) for m in model.modules()],
        memories=[copied(dict(m.named_memories()) if hasattr(m, "named_memories") else {}) for m in model.modules()],
        torch=torch.get_rng_state(),
        numpy=np.random.get_state()[1].copy(),
        python=random.getstate(),
        function=torch.utils.checkpoint.CheckpointFunction,
    )


def copied(memories):
    return {k: v.detach().clone() if isinstance(v, torch.Tensor) else copy.copy(v) for k, v in memories.items()}


def equal(a, b):
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    return a == b


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(fails):
    from spikingjelly.activation_based import neuron

    node = neuron.LIFNode(step_mode="s")
    model = nn.Sequential(Checkpointed(), nn.BatchNorm2d(1), nn.Dropout(0.5), node).train()
    model[1].eval()
    model[0].flagged.weight.requires_grad_(False)
    x = torch.rand(2, 1, 6, 6, requires_grad=True)
    model(x).sum().backward()  # gradients, running statistics and a membrane potential
    unequal = [torch.rand(1, 1, 6, 6), torch.rand(1, 1, 8, 8)]
    before = everything(model)
    field = compute_erf(model, x.detach(), ["0", "1"]).spatial["0"]
    assert (field > 0).sum() == 9
    if fails:
        with pytest.raises(ValueError):
            compute_erf(model, unequal, "3")
    after = everything(model)
    for key in before:
        assert equal(before[key], after[key]), key


def broken(model):
    model.stages[2].downsample.conv.weight.data[0] = torch.nan
    return model


def test_layers_of_an_openmmlab_head_run_the_tensor_mode():
    class Segmentor(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)

        def extract_feat(self, x):
            return (self.backbone(x),)

        def forward(self, x, data_samples=None, mode="tensor"):
            assert mode == "tensor"
            return self.head(self.extract_feat(x)[0])

    result = compute_erf(Segmentor(), torch.randn(2, 1, 9, 9), ["backbone", "head"])
    assert [(f > 0).sum() for f in result.spatial.values()] == [9, 25]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: compute_erf(m, torch.randn(2, 3, 8, 8)),
            "inputs of 8x8 are smaller than the network's stride of 16",
        ),
        (lambda m: compute_erf(m.stages[0], torch.randn(2, 4, 9, 9), "blocks"), "forward pass fails for inputs of 9x9"),
        (lambda m: compute_erf(m, torch.full((2, 3, 32, 32), torch.nan)), "`inputs` hold NaN"),
        (lambda m: compute_erf(broken(m), torch.randn(2, 3, 32, 32)), "1 of .* not finite, such as stages.2.*weight"),
        (lambda m: compute_erf(m, "images/"), "`inputs` is a str"),
        (lambda m: compute_erf(m, torch.randn(2, 3, 32, 32), aggregate="mode"), "`aggregate` is 'mode'; allowed"),
        (lambda m: compute_erf(m, torch.randn(2, 3, 32, 32), normalize="l2"), "`normalize` is 'l2'; allowed"),
        (lambda m: compute_erf(m, torch.randn(2, 3, 32, 32), target="blok"), "`target` is 'blok'; allowed"),
        (lambda m: compute_erf(m, torch.randn(2, 3, 32, 32), batch_size=0), "`batch_size` is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(SDTV3(NANO))


def test_a_corrected_number_is_none_that_cannot_be():
    """Of few noisy inputs a round field seems long; the correction of that alone would make it wider across than along."""
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 8):
        estimate = Estimate()
        estimate.add(rng.exponential(size=(count, 8, 8)))
        numbers = ERFResult.from_estimates({"layer": {"spatial": estimate}}, {}).numbers("layer")
        assert numbers["anisotropy"].value >= 1 and 0 < numbers["entropy"].value <= 1


def test_a_corrected_area_is_one():
    """Of two inputs, one spread and one not, the correction of the bias alone would give areas below 0 or above 1."""
    fields = np.zeros((2, 8, 8))
    fields[0], fields[1, :2, :2] = 1.0, 30.0
    for few in (fields, fields[::-1], np.stack([fields[1], np.roll(fields[1], 4, 0)]), np.ones((2, 8, 8))):
        estimate = Estimate()
        estimate.add(few)
        numbers = ERFResult.from_estimates({"layer": {"spatial": estimate}}, {}).numbers("layer")
        assert all(0 < numbers[f"area_{n}"].value <= 1 for n in (20, 30, 50, 90, 99))
