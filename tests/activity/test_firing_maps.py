"""Maps of neurons that are silent or saturated, counted by hand, and their picture."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sterf_plugins.activity import (
    FiringMaps,
    FiringRates,
    draw_firing_maps,
)
from sterf_plugins.layers import IntegerSpike, if_node

MAC, AC, WORD = 4.6, 0.9, 99.84  # pJ: 45 nm, and 3.12 pJ a bit
ADD, MUL = 0.1, 3.1  # pJ: 32-bit integers


def test_maps_by_hand():
    """Channel 0 is at D = 4 in a 3x3 corner of a 4x4 image; channel 1 never fires; the second image fires everywhere."""
    x = torch.zeros(1, 2, 4, 4)
    x[:, 0, :3, :3] = 4
    model = nn.Sequential(IntegerSpike(4))
    with FiringMaps(model) as maps:
        model(x)
    found = maps.layers["0"]
    expected = dict(never=(7 + 16) / 32, always=9 / 32, full=0.0, local_saturation=1 / 8)
    assert found.as_dict() == pytest.approx(expected)
    assert found.never[0, 3].all() and not found.never[0, :3, :3].any() and found.never[1].all()
    with maps:
        model(torch.full((1, 2, 4, 4), 3.0))
    assert found.as_dict() == pytest.approx(dict(never=0.0, always=0.0, full=0.0, local_saturation=1 / 16))
    assert not any(m._forward_hooks for m in model.modules())
    with FiringMaps(model) as maps:  # tokens, and a second size
        model(torch.full((1, 5, 2), 4.0))
        model(torch.zeros(1, 2, 3, 3))
    assert {k: v.never.shape for k, v in maps.layers.items()} == {"0": (2, 5), "0 3x3": (2, 3, 3)}
    assert maps.layers["0"].as_dict()["full"] == 1 and maps.layers["0 3x3"].never.all()
    with maps:  # vectors, and other channels, which have no common map
        for shape in ((1, 2), (1, 5), (1, 1, 3, 3), (1, 5, 3, 3)):
            model(torch.full(shape, 4.0))
    assert list(maps.layers) == ["0", "0 3x3", "0 C2", "0 C5", "0 C1 3x3", "0 C5 3x3"]
    assert maps.layers["0 3x3"].never.all() and maps.layers["0 C5 3x3"].always.all()


def test_channels_of_sequences_without_a_picture():
    """Of outputs (T, B, C, L) the channels are axis 2, as for firing rates; the first of two always fires."""
    x = torch.zeros(3, 2, 2, 5)
    x[:, :, 0] = 1
    model = if_node()
    with FiringMaps(model) as maps, FiringRates(model) as rates:
        model(x)
    found = maps.layers["node"]
    assert found.never.shape == (2, 5) and found.as_dict()["full"] == rates.layers["node"].dead == 0.5


def test_a_neuron_is_saturated_only_if_it_fires_in_all_time_steps():
    node = neuron.IFNode(step_mode="m")
    x = torch.ones(4, 1, 1, 3, 3)
    x[1, 0, 0, 0, 0] = 0
    with FiringMaps(nn.Sequential(node)) as maps:
        node(x)
    found = maps.layers["0"]
    assert found.always.sum() == 8 and (found.windows, found.saturated) == (1, 0)


def test_the_picture_of_maps():
    never, always = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    never[:, 0, 0], always[0, 3, 3] = True, True
    picture = SimpleNamespace(never=never, always=always)
    tokens = SimpleNamespace(never=never[0], always=always[0])
    ax = draw_firing_maps(dict(a=picture, b=tokens)).axes[0]
    pixels = ax.images[0].get_array()
    assert pixels[0, 0].tolist() == [0, 0, 1] and pixels[3, 3].tolist() == [1, 0.5, 0.5]
    assert pixels[1, 1].tolist() == [1, 1, 1] and ax.get_title() == "a"
    with pytest.raises(ValueError, match="no layer with outputs"):
        draw_firing_maps(dict(b=tokens))
