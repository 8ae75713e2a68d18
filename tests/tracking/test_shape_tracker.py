"""The tracking network: states, starts, sharing."""

import pytest
import torch

from sterf_plugins.tracking import LeakyReadout, ShapeTracker

LAYERS = (
    dict(out_ch=6, bank=dict(sigmas=(1.0,), ratios=(1.0,), orders=1, kernel_size=7)),
    dict(out_ch=4, bank=dict(sigmas=(0.8,), ratios=(1.0,), orders=1, kernel_size=5)),
)
UNITS = ["li", "lif", "relu"]


def events(t=6, batch=2, size=32):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(t, batch, 2, size, size, generator=generator) < 0.05).float()


@pytest.mark.parametrize("head", ["conv", "deconv"])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("unit", UNITS)
def test_pieces_make_the_whole_and_everything_learns(unit, share, head):
    torch.manual_seed(0)
    model = ShapeTracker(unit=unit, layers=LAYERS, share=share, head=head, threshold=0.01)
    x = events(8)
    whole, _ = model(x)
    first, state = model(x[:3])
    second, _ = model(x[3:], state)
    torch.testing.assert_close(torch.cat([first.coordinates, second.coordinates]), whole.coordinates)
    assert whole.coordinates.shape == (8, 2, 3, 2)
    torch.testing.assert_close(whole.probabilities.sum((-2, -1)), torch.ones(8, 2, 3))
    assert len(whole.rates) == (4 if unit == "lif" else 0)
    (whole.coordinates * torch.randn(8, 2, 3, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_sharing_saves_the_convolutions_and_keeps_a_constant_for_each_channel():
    def sizes(share):
        model = ShapeTracker(layers=LAYERS, share=share, mus=(2.0, 4.0, 8.0))
        return len(model.convs), [round(u.mus.item(), 4) for u in model.units]

    assert sizes(True) == (2, [2, 4, 8])
    assert sizes(False) == (6, [2, 2, 4, 4, 8, 8])


def test_starts():
    torch.manual_seed(0)
    rf, uniform = (ShapeTracker(init=i) for i in ("rf", "uniform"))
    shapes = [tuple(p.shape) for p in rf.parameters()]
    assert shapes == [tuple(p.shape) for p in uniform.parameters()]  # the same network, started otherwise
    assert [u.mus.item() for u in rf.units] == pytest.approx([3, 9])
    assert all(3 <= u.mus.item() <= 9 for u in uniform.units)
    assert ShapeTracker(init="rf", temporal_init="uniform").units[0].mus.item() != pytest.approx(3)
    # the bank's fields are smooth: neighbouring weights agree, those of the other start do not
    smoothness = []
    for model in (rf, uniform):
        w = model.convs[0].weight.detach()
        smoothness.append(((w[..., 1:] - w[..., :-1]).square().mean() / w.square().mean()).item())
    assert smoothness[0] < 0.5 * smoothness[1]


def test_memory():
    assert ShapeTracker(unit="li").has_memory
    assert ShapeTracker(unit="relu").has_memory  # of the readout
    model = ShapeTracker(unit="relu", readout="dsnt")
    assert not model.has_memory
    x = events(4)
    torch.testing.assert_close(model(x)[0].coordinates[2:], model(x[2:])[0].coordinates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(unit="gru"), "allowed: 'li', 'lif', 'relu'"),
        (dict(layers=()), "at least one entry"),
        (dict(mus=()), "at least one entry"),
        (dict(readout="pixel"), "allowed: 'dsnt', 'dsntli'"),
        (dict(classes=0), "must be an int >= 1"),
        (dict(dropout=1.0), r"in \[0, 1\)"),
        (dict(share="no"), "`share` is 'no'"),
        (dict(norm="no"), "`norm` is 'no'"),
        (dict(unit="relu", surrogate=torch.sigmoid), "`surrogate` is of unit='lif', and `unit` is 'relu'"),
        (dict(layers=[dict(LAYERS[0], kernel=3)]), "`layers` has {.*'kernel': 3}; each is dict"),
        (dict(layers=[3]), "`layers` has 3; each is dict"),
        (dict(layers=3), "`layers` is 3"),
        (dict(mus=3.0), "`mus` is 3.0"),
        (dict(mus=(0.0, 3.0), init="uniform"), "`mus` is 0.0; it must be a finite number > 0"),
        (dict(unit="relu", mus=("a",)), "`mus` is 'a'"),
        (dict(layers=[dict(bank=3)]), "`layers` has {'bank': 3}; each is dict"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ShapeTracker(**options)


def test_bad_tensors():
    model = ShapeTracker()
    with pytest.raises(ValueError, match=r"must be \(T, B, C, H, W\)"):
        model(torch.zeros(2, 2, 32, 32))
    _, state = model(events(2, batch=3))
    with pytest.raises(ValueError, match="another batch"):
        model(events(2, batch=2), state)
    for wrong in (state[:-1], [*state, None]):
        with pytest.raises(ValueError, match=rf"`state` has {len(wrong)} entries, and this tracker {len(state)}"):
            model(events(2, batch=3), wrong)
    for options in (dict(unit="relu"), dict(head="deconv", readout="dsnt"), dict(share=False, unit="lif")):
        model = ShapeTracker(**options)
        assert len(model(events(2))[1]) == model.num_states
    with pytest.raises(ValueError, match=r"`k` is nan; it must be a number in \(0, 2\)"):
        LeakyReadout(float("nan"))
