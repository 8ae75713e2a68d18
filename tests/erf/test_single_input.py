"""A pass with one input gives what it gives beside others."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import check_field, compute_erf


class Tokens(nn.Module):
    """A stock norm whose gradient comes channels-last, as behind a spiking attention."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.norm = norm(8).eval()
        self.mix = nn.Conv1d(16, 16, 1)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        self.norm.running_mean.normal_()

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(-1, -2).reshape(-1, 16, 2, 4).permute(0, 2, 1, 3).contiguous()
        return self.mix(tokens.transpose(1, 2).flatten(2).square()).transpose(1, 2).unflatten(2, (4, 4))


class Functional(nn.BatchNorm2d):
    """A norm with an activation in it, as timm has."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias).relu()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Functional])
def test_stock_norms_have_the_right_gradient(norm):
    torch.manual_seed(0)
    model, images = Tokens(norm), torch.randn(4, 8, 4, 4)
    options = dict(channels="sum", calibrate=False, grid=(4, 4), layout="BNC", position=(1, 2))
    one, four = (compute_erf(model, images, "mix", batch_size=n, **options) for n in (1, 4))
    np.testing.assert_allclose(one.spatial["mix"], four.spatial["mix"], rtol=1e-5)


def test_norms_that_keep_no_statistics_do_not_let_inputs_see_each_other():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm, nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)).double()
    images = torch.randn(3, 3, 12, 12).double() * torch.tensor([1, 2, 4]).view(3, 1, 1, 1)
    together = compute_erf(model, images, "3", batch_size=3).spatial["3"]
    alone = [compute_erf(model, image[None], "3").spatial["3"] for image in images]
    np.testing.assert_allclose(together, np.mean(alone, 0), rtol=1e-6)
    check = check_field(model, images, "3", cells=4)
    np.testing.assert_allclose(check.map("3", "field"), together.reshape(4, 3, 4, 3).sum((1, 3)), rtol=1e-6)
    occluded, unit = images[:1].clone(), lambda x: model.eval()(x)[0, :, 6, 6].sum()
    occluded[0, :, 6:9, 3:6] = images.mean((0, 2, 3))[:, None, None]
    assert check.maps["3"][0, 1, 2, 1] == pytest.approx((unit(occluded) - unit(images[:1])).abs().item())


def test_a_single_input_runs_alone():
    """It was doubled, which cost twice the time."""
    sizes = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)).eval()
    model[0].register_forward_hook(lambda module, arguments, y: sizes.append(len(y)))
    compute_erf(model, torch.randn(3, 3, 8, 8), "2", batch_size=1, calibrate=False)
    assert sizes == [1, 1, 1]


def test_steps_in_the_batch_of_a_map_with_one_channel():
    """(T * B, 1, h, w) of one input has the shape of tokens (T, B, N, C)."""

    class Network(nn.Module):
        T = 4

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 1, 3, padding=1)
            self.pool = nn.AvgPool2d(2)

        def forward(self, x):
            x = x.expand(self.T, *x.shape).flatten(0, 1)
            return self.pool(self.first(x))

    torch.manual_seed(0)
    model, images = Network(), torch.randn(2, 3, 16, 16)
    one, two = (compute_erf(model, images, ["first", "pool"], batch_size=n) for n in (1, 2))
    assert one.info["map_size"] == two.info["map_size"] == {"first": [16, 16], "pool": [8, 8]}
    for layer in one.layers:
        np.testing.assert_allclose(one.spatial[layer], two.spatial[layer], rtol=1e-6)
