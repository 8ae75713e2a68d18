"""Whatever a model is, it is left as it was found: wrappers, scripts, compiled modules, 16 bits, parts without gradients."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import (
    calibrate,
    check_field,
    compute_erf,
    randomise_field,
    theoretical_rf,
)

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


def test_the_model_is_left_as_it_was_found():
    model = SDTV3(NANO, "srb").train()
    model.stages[1].eval()  # as norm_eval and frozen stages do
    next(model.parameters()).requires_grad_(False)
    model.grad_checkpointing = True
    x = torch.randn(2, 3, 48, 48)
    model(x)[0].sum().backward()
    before = dict(
        training=[m.training for m in model.modules()],
        requires_grad=[p.requires_grad for p in model.parameters()],
        grads=[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        state={k: v.clone() for k, v in model.state_dict().items()},
        hooks=[len(m._forward_hooks) for m in model.modules()],
        torch=torch.get_rng_state(),
        numpy=np.random.get_state()[1].copy(),
    )
    compute_erf(model, x, "stages.*")
    assert [m.training for m in model.modules()] == before["training"]
    assert [p.requires_grad for p in model.parameters()] == before["requires_grad"]
    for p, grad in zip(model.parameters(), before["grads"], strict=True):
        assert (p.grad is None) if grad is None else torch.equal(p.grad, grad)
    assert all(torch.equal(v, before["state"][k]) for k, v in model.state_dict().items())
    assert [len(m._forward_hooks) for m in model.modules()] == before["hooks"]
    assert torch.equal(torch.get_rng_state(), before["torch"])
    assert np.array_equal(np.random.get_state()[1], before["numpy"])
    assert model.grad_checkpointing


def test_the_model_is_restored_after_an_error():
    model = SDTV3(NANO).train()
    with pytest.raises(ValueError, match="inputs differ in shape"):
        compute_erf(model, [torch.randn(1, 3, 32, 32), torch.randn(1, 3, 48, 48)], "stages.0")
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_statistics_of_earlier_images_are_forgotten():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    first, second = torch.randn(4, 3, 9, 9, dtype=torch.float64), 3 + torch.randn(4, 3, 9, 9, dtype=torch.float64)
    fresh = calibrate(copy.deepcopy(model), second)
    again = calibrate(calibrate(model, first), second)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(again[1], name), getattr(fresh[1], name), rtol=1e-12, atol=1e-12)


def test_parameters_need_no_gradient_during_the_computation():
    """Otherwise every backward pass would compute and keep what belongs to the weights, too."""
    conv, seen = nn.Conv2d(3, 4, 3), []
    conv.register_forward_pre_hook(lambda module, _: seen.append(module.weight.requires_grad))
    compute_erf(nn.Sequential(conv), torch.randn(2, 3, 8, 8), "0")
    assert seen and not any(seen) and conv.weight.requires_grad


def test_no_statistics_are_taken_of_what_is_no_number():
    model, images = nn.Sequential(nn.BatchNorm2d(1)), torch.ones(2, 1, 2, 2)
    with pytest.raises(ValueError, match="`images` hold NaN or infinite values"):
        calibrate(model, images * float("nan"))
    with pytest.raises(TypeError, match="`images` is a list; it must be a tensor"):
        calibrate(model, [images])
    assert not model[0].running_mean.any()


@pytest.mark.parametrize(
    "wrap", [partial(torch.compile, backend="eager"), nn.DataParallel], ids=["compiled", "parallel"]
)
def test_wrappers_do_not_show_in_the_names_of_layers(wrap):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.rand(2, 3, 8, 8)
    expected = compute_erf(model, x, "1")
    for wrapped in (wrap(model), nn.DataParallel(wrap(model))):
        result = compute_erf(wrapped, x, "1")
        assert np.array_equal(result.spatial["1"], expected.spatial["1"])
        assert compute_erf(wrapped, x, "1", forward=lambda network, images: network[:2](images)).layers == ["1"]
        assert theoretical_rf(wrapped, (8, 8), "1")["1"].size == (3, 3)
        assert check_field(wrapped, x, "1", cells=2).layers == ["1"] and randomise_field(wrapped, x, "1", cells=2)


def test_a_compiled_module_runs_as_it_was_written():
    def forward(self, x):
        compiled.append(torch.compiler.is_compiling())
        return nn.Sequential.forward(self, x)

    compiled = []
    model = type("Net", (nn.Sequential,), dict(forward=forward))(nn.Conv2d(3, 4, 3))
    model.compile(backend="eager")
    assert compute_erf(model, torch.rand(2, 3, 8, 8), "0").layers == ["0"] and set(compiled) == {False}


def test_inference_mode():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        assert compute_erf(model, x.clone(), "0").layers == ["0"] and torch.is_inference_mode_enabled()
        assert check_field(model, x.clone(), "0", cells=2).layers == ["0"]
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="were made in inference mode, and nothing that uses them has a gradient"):
        compute_erf(model, x, "0")


class Mixed(nn.Module):
    """Computes a part in 16 bits by itself, whatever is asked for outside."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Tanh()), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.stem(x)
        return self.out(y.float())


def test_modules_that_run_in_16_bits_are_named():
    result = compute_erf(Mixed(), torch.randn(2, 3, 8, 8), ["stem", "out"])
    assert result.info["autocast"] == ["stem"] and [line.split(":")[0] for line in result.warnings] == ["stem"]
    assert "rounded to 16 bits in stem, run with autocast inside the model" in result.notes
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of the caller, which the engine switches off
        assert not compute_erf(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 8, 8), "0").warnings


class PartlyWithoutGradients(nn.Module):
    """Two branches, of which one is run with ``no_grad``, up to a layer, and a third behind it."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Tanh())
        self.live, self.out, self.teacher = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        with torch.no_grad():
            y = self.frozen(x)
        y = y + self.live(x)
        out = self.out(y)
        with torch.no_grad():
            self.teacher(y)
        return out


def test_modules_that_run_without_gradients_are_named():
    torch.manual_seed(0)
    result = compute_erf(PartlyWithoutGradients(), torch.randn(2, 3, 8, 8), ["live", "out"])
    assert result.info["cut"] == ["frozen"] and [line.split(":")[0] for line in result.warnings] == ["frozen"]
    assert "without what leads through frozen, run with no_grad inside the model" in result.notes
    assert not compute_erf(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 8, 8), "0").warnings


def test_a_model_that_draws_random_numbers_is_told_of():
    class Drawing(nn.Sequential):
        def forward(self, x):
            return self[1](nn.functional.dropout(self[0](x), training=True))

    convolutions = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
    said = "the model draws random numbers, which are other ones in another run"
    assert said in compute_erf(Drawing(*convolutions), torch.randn(2, 3, 8, 8), "1").notes
    plain = nn.Sequential(convolutions[0], nn.Dropout(), convolutions[1])
    assert said not in compute_erf(plain, torch.randn(2, 3, 8, 8), "2").notes
