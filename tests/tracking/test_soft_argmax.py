"""Coordinates as expectations, leaky readouts and the losses of the tracking experiment."""

import pytest
import torch

from sterf_plugins.tracking import LeakyReadout, SoftArgmax2d
from sterf_plugins.tracking.losses import normalised_positions, pixel_positions, tracking_losses
from sterf_plugins.tracking.soft_argmax import coordinate_ramp, gaussian_maps, js_divergence, soft_argmax


@pytest.mark.parametrize(("ramp", "name"), [("linspace", "coord_linspace_yx"), ("centre", "coord_pixelcentre_yx")])
def test_golden_coordinates(covariant_golden, ramp, name):
    arrays = {k: torch.from_numpy(v) for k, v in covariant_golden("dsnt").items()}
    coordinates, probabilities = SoftArgmax2d(ramp)(arrays["heatmap"].log())
    torch.testing.assert_close(coordinates, arrays[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(probabilities, arrays["heatmap"], rtol=1e-9, atol=1e-12)


def test_golden_leaky_readout(covariant_golden):
    arrays = {k: torch.from_numpy(v) for k, v in covariant_golden("dsnt").items()}
    readout = LeakyReadout(0.9).double()
    readout.k.data.fill_(0.9)  # 0.9 of float32 is another number
    y, state = readout(arrays["coord_linspace_yx"])
    torch.testing.assert_close(y, arrays["coord_li_yx"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state, y[-1])


def test_a_constant_settles_at_its_gain_and_pieces_make_the_whole():
    readout = LeakyReadout(0.5)
    x = torch.ones(40, 3, 2, 2)
    y, _ = readout(x)
    torch.testing.assert_close(y[-1], torch.full((3, 2, 2), 2.0))
    first, state = readout(x[:7])
    second, _ = readout(x[7:], state)
    torch.testing.assert_close(torch.cat([first, second]), y)
    y.sum().backward()
    assert readout.k.grad.abs().min() > 0


@pytest.mark.parametrize("ramp", ["linspace", "centre"])
def test_a_bump_is_found_at_its_centre(ramp):
    centres = torch.tensor([[-0.25, 0.5], [0.0, 0.1]], dtype=torch.float64)
    maps = gaussian_maps(centres, (32, 40), 0.1, ramp)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(soft_argmax(maps, ramp), centres, rtol=0, atol=1e-6)


def test_ramps():
    assert coordinate_ramp(3).tolist() == [-1, 0, 1]
    torch.testing.assert_close(coordinate_ramp(4, "centre"), torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_divergence():
    centres = torch.tensor([[-0.5, -0.5], [0.5, 0.5]], dtype=torch.float64)
    p = gaussian_maps(centres, (32, 32), 0.05)
    assert js_divergence(p, p).abs().max() < 1e-12
    torch.testing.assert_close(js_divergence(p[:1], p[1:]).item(), 0.6931471805599453, rtol=1e-6, atol=0)  # disjoint
    wide = gaussian_maps(centres, (4, 4), 0.8)
    assert torch.autograd.gradcheck(js_divergence, (wide[:1].requires_grad_(), wide[1:]))


def test_losses():
    targets = torch.zeros(4, 2, 1, 2)
    maps = gaussian_maps(targets, (9, 9), 0.06)
    losses = tracking_losses(targets + torch.tensor([0.3, 0.4]), maps, [torch.full((5,), 0.25)], targets)
    assert losses["loss_distance"].item() == pytest.approx(0.5)
    assert losses["loss_js"].item() == pytest.approx(0, abs=1e-9)
    assert losses["loss_rate"].item() == pytest.approx(0.05 * 5 * 0.04)
    assert set(tracking_losses(targets, maps, [], targets, js_weight=0)) == {"loss_distance"}


def test_positions():
    pixels = torch.tensor([[0.0, 30.0], [20.0, 60.0]])
    normalised = normalised_positions(pixels, (20, 60))
    assert normalised.tolist() == [[-1, 0], [1, 1]]
    torch.testing.assert_close(pixel_positions(normalised, (20, 60)), pixels)


def test_bad_input():
    with pytest.raises(ValueError, match="allowed: 'linspace', 'centre'"):
        SoftArgmax2d("center")
    with pytest.raises(ValueError, match=r"`k` is 2.5; it must be a number in \(0, 2\)"):
        LeakyReadout(2.5)
    with pytest.raises(ValueError, match="T is 0"):
        LeakyReadout()(torch.zeros(0, 1, 2))
    with pytest.raises(ValueError, match="pass state=None"):
        LeakyReadout()(torch.zeros(3, 4, 1, 2), torch.zeros(5, 1, 2))
