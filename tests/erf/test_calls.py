"""Layers that are called several times, or that no field of can be had: each call has its field, each reason its words."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import ERFResult, check_field, compute_erf, theoretical_rf


class Several(nn.Module):
    """Branches that work, that are cut off, silent, in inference mode, integer, a packed sequence, and not called."""

    def __init__(self):
        super().__init__()
        for name in ("good", "cut", "dead", "inference", "integer", "packed", "absent"):
            self.add_module(name, Returns())
        self.embed = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.embed(x)
        with torch.inference_mode():
            self.inference(y * 1)
        self.cut(y.detach())
        self.dead(y * 0)
        self.integer(y.long())
        self.packed(nn.utils.rnn.pack_sequence([y[0].flatten(1)]))
        return self.good(y)


class Returns(nn.Module):
    def forward(self, y):
        return y


REASONS = {
    "cut": "its output does not depend on the input by gradients",
    "dead": "all gradients are zero",
    "inference": "inference mode",
    "integer": "gives torch.int64",
    "packed": "packed sequence",
    "absent": "never reached absent",
}


def test_a_layer_without_a_field_is_named_and_the_others_are_there(tmp_path):
    torch.manual_seed(0)
    model, x = Several(), torch.randn(4, 3, 16, 16)
    result = compute_erf(model, x, ["good", *REASONS], batch_size=2)
    assert result.layers == ["good"] and result.failed.keys() == REASONS.keys()
    for layer, reason in REASONS.items():
        assert reason in result.failed[layer]
        assert any(line.startswith(f"{layer}: no field") for line in result.warnings)
        with pytest.raises(ValueError, match=reason):
            compute_erf(model, x, layer)
    assert np.array_equal(result.spatial["good"], compute_erf(model, x, "good", batch_size=2).spatial["good"])
    assert ERFResult.load(result.save(tmp_path / "a.npz")).failed == result.failed


def test_quantised_and_scripted_layers_are_named():
    x = torch.randn(2, 3, 16, 16)
    scripted = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())))
    with pytest.raises(ValueError, match=r"layer '1\.0' is a TorchScript module"):
        compute_erf(scripted, x, "1.0")
    quantised = nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8))
    with pytest.raises(ValueError, match="layer '0' is quantised"):
        compute_erf(quantised, x, "0")
    short = nn.Sequential(nn.Conv2d(3, 4, 3))
    short[0].weight.data = short[0].weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"weights of 8 bits, such as 0\.weight"):
        compute_erf(short, x, "0")


def test_weights_and_inputs_without_values_are_named():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="`inputs` are on the device 'meta'"):
        compute_erf(model, x.to("meta"), "2")
    model[1:].to("meta")
    for compute in (compute_erf, check_field):
        with pytest.raises(ValueError, match=r"weights on the device 'meta', such as 1\.weight"):
            compute(model, x, "2")
    with pytest.raises(ValueError, match="weights on the device 'meta'"):
        theoretical_rf(model, (16, 16), "2")


class Pyramid(nn.Module):
    """A head that three levels share, as detectors have it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.AvgPool2d(2)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        a = self.embed(x)
        b = self.down(a)
        return [self.head(y) for y in (a, b, self.down(b))]


def test_each_call_of_a_shared_layer_has_its_field():
    torch.manual_seed(0)
    model, x = Pyramid(), torch.randn(3, 3, 32, 32)
    result = compute_erf(model, x, ["head", "embed"])
    assert result.layers == ["embed", "head#0", "head#1", "head#2"]
    assert [result.info["map_size"][f"head#{i}"] for i in range(3)] == [[16, 16], [8, 8], [4, 4]]
    areas = [result.area_ratio(f"head#{i}", 0.99) for i in range(3)]
    assert areas == sorted(areas) and areas[0] < areas[2]
    for calls, index in (("first", 0), ("last", 2), (1, 1), (-2, 1)):
        chosen = compute_erf(model, x, "head", calls=calls)
        assert chosen.layers == [f"head#{index}"]
        assert np.array_equal(chosen.spatial[f"head#{index}"], result.spatial[f"head#{index}"])
    with pytest.raises(ValueError, match=r"'head' is called 3 times, and `calls` is 3; .* from 0: -3 to 2 are allowed"):
        compute_erf(model, x, "head", calls=3)
    with pytest.raises(ValueError, match="`calls` is 'second'; allowed: 'all', 'first', 'last'"):
        compute_erf(model, x, "head", calls="second")
    single = compute_erf(model, x[:1], "head#1".partition("#")[0], calls=1).spatial["head#1"]
    leaf = x[:1].clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(leaf)[1][0, :, 4, 4].sum(), leaf)
    assert np.allclose(single, grad.abs().mean(1)[0], atol=1e-6)


def test_layers_before_an_error_of_the_model_have_their_fields():
    torch.manual_seed(0)
    late = nn.Linear(5, 2)  # takes other channels
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), late), torch.randn(3, 3, 16, 16)
    result = compute_erf(model, x, ["0", "1", "3"], batch_size=1)
    assert result.layers == ["0", "1"] and result.failed.keys() == {"3"}
    assert "before it, the model's forward pass fails for inputs of 16x16" in result.failed["3"]
    assert np.array_equal(result.spatial["1"], compute_erf(model[:2], x, "1", batch_size=1).spatial["1"])
    with pytest.raises(ValueError, match=r"^the model's forward pass fails for inputs of 16x16"):
        compute_erf(model, x, "3")


class Strict(nn.Module):
    """Asks for something without saying what, and runs its head without calling it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())

    def forward(self, x, sizes=(1, 1)):
        if sizes is None:
            raise AssertionError
        return self.head.forward(self.body(x))


def test_an_assertion_without_a_text_and_a_head_that_is_not_called_are_named():
    model, x = Strict(), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"AssertionError at `raise AssertionError` in test_calls.py, line \d+\. Give"):
        compute_erf(model, x, "body", forward=lambda model, x: model(x, None))
    with pytest.raises(
        ValueError, match=r"forward pass fails for inputs of 16x16 .*`forward=` can give it"
    ):  # a TypeError
        compute_erf(model, x, "body", forward=lambda model, x: model(None))
    steps = torch.randn(4, 2, 3, 16, 16)  # a model that is stepped by its user
    with pytest.raises(
        ValueError, match=r"Expected 3D .* forward=lambda model, x: \[model\(step\) for step in x\] gives them one"
    ):
        compute_erf(model, steps, "body")
    assert compute_erf(model, steps, "body", forward=lambda model, x: [model(step) for step in x]).layers == ["body"]
    result = compute_erf(model, x, ["body", "head"])
    assert result.layers == ["body"] and "name layers in it, such as head.0" in result.failed["head"]


class Exits(Pyramid):
    """Looks at a second level only where the first is bright."""

    def forward(self, x):
        a = self.embed(x)
        levels = (a, self.down(a)) if x.mean() > 0 else (a,)
        return [self.head(y) for y in levels]


def test_another_number_of_calls_for_later_inputs_is_told():
    x = torch.rand(3, 3, 32, 32)
    x[1] -= 1
    result = compute_erf(Exits(), x, ["embed", "head"], batch_size=1)
    assert result.layers == ["embed"] and "another number of times" in result.failed["head#1"]
    with pytest.raises(
        ValueError, match="'head#0': for some inputs the model calls this layer another number of times"
    ):
        compute_erf(Exits(), x, "head", batch_size=1)


class Patches(nn.Sequential):
    """Tokens of 4×4 patches, zero for an image of zeros."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 4, 4, bias=False), nn.Flatten(2), nn.ReLU())


def test_a_first_input_without_a_field_does_not_take_the_others_with_it():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    x[0] = 0
    result = compute_erf(Patches(), x, "2", layout="BCN")
    assert result.info["num_inputs"] == 4 and result.spatial["2"][16:20, 16:20].all()
