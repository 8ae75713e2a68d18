"""Two results beside each other: differences with intervals, rules for continuous integration, and what is printed."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import ERFResult, calibrate, compute_erf, difference
from sterf_plugins.erf.report.tables import difference_table
from sterf_plugins.erf.rules import Rule, failures
from sterf_plugins.testing import assert_same_field


@pytest.fixture(scope="module")
def pair():
    """Fields of a network and of the same one with slightly other weights, on the same inputs, and of the first on others."""
    torch.manual_seed(0)
    x, other = (torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    layers = [m for i in range(4) for m in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())]
    first = nn.Sequential(*layers)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for conv in second[::2]:
            conv.weight[:, :, 1, 1] *= 0.5  # a smaller weight in the middle: a wider field
    return [compute_erf(*a, ["4", "6"]) for a in ((first, x), (second, x), (first, other))]


def test_the_same_inputs_tell_apart_what_independent_ones_do_not(pair, tmp_path):
    a, b, _ = pair
    d = difference(a, b).of("6", "area_50")
    assert d.paired and d.verdict == "larger" and d.change.value == pytest.approx(d.b.value - d.a.value)
    low, high = d.change.interval
    assert 0 < low < d.change.value < high
    assert d.change.error < 0.7 * np.hypot(d.a.error, d.b.error)
    assert difference(b, a).of("6", "area_50").verdict == "smaller"
    # From files it is the same; with another number of inputs they count as independent, and that is said.
    loaded = [ERFResult.load(r.save(tmp_path / f"{i}.npz")) for i, r in enumerate((a, b))]
    assert difference(*loaded).of("6", "area_50") == d
    b = copy.deepcopy(b)
    b.info["num_inputs"] = 39
    apart = difference(a, b)
    assert not apart.of("6", "area_50").paired and "independent inputs" in str(apart)
    assert apart.of("6", "area_50").change.error == pytest.approx(np.hypot(d.a.error, d.b.error))


def test_a_result_does_not_differ_from_itself(pair):
    a, _, c = pair
    same = difference(a, a)
    assert {d.verdict for d in same if np.isfinite(d.change.error)} == {"same"}
    assert all(d.change.value == 0 and d.relative == 0 for d in same)
    unclear = [d.verdict for d in difference(a, c)]
    assert unclear.count("unclear") > 0.8 * len(unclear)  # other inputs of the same kind


def test_what_cannot_be_compared_is_said(pair):
    a = pair[0]
    signed = copy.deepcopy(a)
    signed.info["reduce"] = "signed"
    with pytest.raises(ValueError, match="not of the same kind of field \\(reduce: 'abs' and 'signed'\\)"):
        difference(a, signed)
    with pytest.raises(ValueError, match="no layer in common"):
        difference(a, ERFResult(["x"], {}))
    with pytest.raises(ValueError, match="no number 'area_51' of a layer '6'"):
        difference(a, a).of("6", "area_51")
    with pytest.raises(TypeError, match=r"`b` is 'b.npz' \(str\); give an ERFResult, of a file ERFResult.load"):
        difference(a, "b.npz")
    in_time = ERFResult(["6"], {}, {**a.info, "kinds": ["spatiotemporal"]}, spatiotemporal={"6": np.ones((2, 2, 3, 3))})
    with pytest.raises(
        ValueError, match=r"no number in common: one has fields of the kind spatial, .* of spatiotemporal"
    ):
        difference(a, in_time)
    with pytest.raises(TypeError, match=r"`layers` is 6 \(int\); it must be a list or tuple"):
        assert_same_field(a, a, 6)


def test_a_comparison_as_text_and_rows(pair):
    comparison = difference(pair[0], pair[1])
    lines = str(comparison).splitlines()
    assert lines[0].split() == ["layer", "number", "a", "b", "b", "-", "a", "95", "%", "interval", "b", "is"]
    line = next(line for line in lines if line.startswith("6 ") and "area_50" in line)
    assert line.endswith("larger") and line.count("±") == 3 and " to +" in line
    row = next(r for r in comparison.rows() if (r["layer"], r["number"]) == ("6", "area_50"))
    assert row["low"] < row["change"] == row["b"] - row["a"] < row["high"] and row["paired"] is True


RULES = {
    "area_50>5%": ("*", "area_50", 5.0, "%", ""),
    "stages.*:r90 > +.5": ("stages.*", "r90", 0.5, "", "+"),
    "head#0:area_*>3se": ("head#0", "area_*", 3.0, "se", ""),
    "mean_lag>-10%": ("*", "mean_lag", 10.0, "%", "-"),
    "area_90>1e-05": ("*", "area_90", 0.00001, "", ""),
}


@pytest.mark.parametrize("text", RULES)
def test_rules_are_read(text):
    rule = Rule.parse(text)
    assert (rule.layer, rule.name, rule.amount, rule.unit, rule.sign) == RULES[text]
    assert Rule.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["area_90", "area_90>", "area_90 changes by 5%", "area_90>5px", ">5%", "area_90<5%"])
def test_other_texts_are_no_rules(text):
    with pytest.raises(ValueError, match=r"is no rule; give \[LAYER:\]NUMBER>AMOUNT"):
        Rule.parse(text)


def test_rules_that_are_broken(pair):
    comparison = difference(pair[0], pair[1])
    grown = comparison.of("6", "area_50")
    share = 100 * grown.relative

    def broken(*texts):
        return failures(comparison, map(Rule.parse, texts))

    for amount, times in ((0.9, 1), (1.1, 0)):
        assert len(broken(f"6:area_50>{amount * share:.4f}%")) == times
        assert len(broken(f"6:area_50>+{amount * grown.change.value:.7f}")) == times
        assert len(broken(f"6:area_50>{amount * grown.change.value / grown.change.error:.4f}se")) == times
    assert not broken("6:area_50>-0.1%") and broken("area_*>0.1%")
    (line,) = broken("6:area_50>1%")
    assert line.startswith(f"6: area_50 was {grown.a} and is {grown.b}, changed by {grown.change} (+")
    with pytest.raises(ValueError, match="is about none of the numbers area_20"):
        broken("7:area_50>1%")
    single = difference(*(ERFResult([*r.layers], r.spatial, r.info) for r in pair[:2]))  # without errors
    assert failures(single, [Rule.parse("6:area_50>1%")])
    with pytest.raises(ValueError, match="6: area_50 has no standard error"):
        failures(single, [Rule.parse("6:area_50>3se")])


def test_a_number_that_is_no_longer_finite_breaks_a_rule():
    strip, box = np.zeros((9, 9), np.float32), np.zeros((9, 9), np.float32)
    strip[4], box[3:6, 1:8] = 1, 1
    a, b = (ERFResult(["x"], {"x": field}) for field in (box, strip))
    rule = [Rule.parse("anisotropy>1000%")]
    assert "anisotropy was 2.449 and is inf" in failures(difference(a, b), rule)[0]
    assert not failures(difference(b, b), rule)


def test_a_layer_that_has_lost_its_field_is_a_difference():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)), torch.randn(4, 1, 12, 12)
    whole = compute_erf(model, x, ["0", "1"])
    nn.init.zeros_(model[1].weight)
    dead = compute_erf(model, x, ["0", "1"])
    assert list(dead.failed) == ["1"]
    comparison = difference(whole, dead)
    assert "1: only the first result has its field. layer '1': all gradients are zero" in str(comparison)
    for rule in ("area_90>5%", "1:area_90>5%"):
        (line,) = failures(comparison, [Rule.parse(rule)])
        assert line.startswith("1: has no field any more. layer '1': all gradients are zero")
    assert not failures(comparison, [Rule.parse("0:area_90>5%")])
    assert not failures(difference(dead, whole), [Rule.parse("area_90>5%")])  # more than before
    for pair in ((whole, dead), (dead, whole)):
        with pytest.raises(AssertionError, match=r"result has its field\. layer '1': all gradients are zero"):
            assert_same_field(*pair)
        assert_same_field(*pair, "0")
    with pytest.raises(
        AssertionError, match=r"1: only the first result has its field\. The other was computed without it"
    ):
        assert_same_field(whole, compute_erf(model, x, "0"))
    table = difference_table(("before", "after"), comparison)
    assert ">before</th>" in table and "area_90" in table and ">same</td>" in table and "1: only the first" in table


def test_a_field_that_lies_along_the_other_axis_is_another_one():
    x, nets = torch.randn(4, 1, 12, 12), [nn.Sequential(nn.Conv2d(1, 1, k, padding="same")) for k in ((1, 5), (5, 1))]
    with pytest.raises(AssertionError, match="0: row_extent is"):
        assert_same_field(*(compute_erf(net, x, "0") for net in nets), k=0, rtol=0.5)


def test_weights_of_steps_belong_to_the_definition():
    model, x = nn.Sequential(nn.Identity()), torch.randn(3, 4, 1, 6, 6)
    a, b = (compute_erf(model, x, "0", time="each", weight=w) for w in (None, np.ones((3, 3))))
    with pytest.raises(ValueError, match=r"same kind of field \(weight: None and \[\[1.0, 1.0, 1.0\]"):
        difference(a, b)


def test_the_same_field_is_asserted(pair, tmp_path):
    a, b, c = pair
    assert_same_field(a, a)
    assert_same_field(a, c, ["6"], "area_90", rtol=0.1)
    with pytest.raises(AssertionError) as error:
        assert_same_field(a.save(tmp_path / "a.npz"), b, "6", "area_50")
    number = a.numbers("6")["area_50"], b.numbers("6")["area_50"]
    assert f"6: area_50 is {number[0]} in the first and {number[1]} in the second" in str(error.value)
    assert_same_field(a, b, "6", "area_50", rtol=0.5)
    assert_same_field(a, b, "6", "area_50", k=1e6)
    with pytest.raises(ValueError, match="no layer is 7; there are"):
        assert_same_field(a, b, ["6", "7"], "area_50")
    with pytest.raises(TypeError, match=r"`b` is 1000000 \(int\); give an ERFResult, or the path of its file"):
        assert_same_field(a, 10**6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(numbers=["area_50", "area_51"]), "no number is area_51; there are the numbers area_20"),
        (dict(rtol=math.nan), "`rtol` is nan; it must be a number >= 0"),
        (dict(k=-1), "`k` is -1; it must be a number >= 0"),
    ],
)
def test_an_assertion_that_could_not_fail_is_an_error(pair, options, message):
    with pytest.raises(ValueError, match=message):
        assert_same_field(pair[0], pair[0], **options)


def test_a_mirrored_field_is_another_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 7, padding=3), nn.ReLU(), nn.Conv2d(4, 4, 7, padding=3))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight *= torch.linspace(0, 1, 7)
    x = torch.randn(8, 1, 25, 25)

    class Mirrored(nn.Sequential):
        def forward(self, x):
            return super().forward(x.flip(3))

    a, b = compute_erf(net, x, "2"), compute_erf(Mirrored(*net), x.flip(3), "2")
    assert_same_field(a, b, numbers=["area_*", "r90", "rms_radius", "*_extent"])  # they are those of a mirrored map
    with pytest.raises(AssertionError, match="2: its spatial fields, each over its sum, differ by a share of"):
        assert_same_field(a, b)


def test_a_port_with_its_weights_has_the_same_field():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    model = calibrate(SDTV3(dict(embed_dims=[8, 16, 24, 32], num_heads=4), "srb"), x)
    port = SDTV3(dict(embed_dims=[8, 16, 24, 32], num_heads=4), "srb")
    port.load_state_dict(model.state_dict())
    a, b = (compute_erf(m, x, "stages.[01]", batch_size=size) for m, size in ((model, 4), (port, 1)))
    assert_same_field(a, b)


def test_print_is_at_most_ten_lines():
    x = torch.randn(4, 3, 32, 32)
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(12)))
    result = compute_erf(model, x, [str(i) for i in range(12)])
    text = str(result)
    lines = text.splitlines()
    assert len(lines) <= 10 and "12 layers, 4 inputs of 3x32x32" in lines[0] and "6 more" in lines[-1]
    assert lines[2].startswith("0 ") and "nan" not in text and " 0.000 " not in text
    assert repr(result) == "<ERFResult of 4 inputs, layers 0, 1, 2, 3 and 8 more>"
