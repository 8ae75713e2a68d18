"""The bars that tools show."""

import torch
from torch import nn

from sterf_plugins.cli.progress import layers_bar


def test_a_bar_of_layers_is_full_at_the_end_and_leaves_no_hooks(capsys):
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with layers_bar(model, "counting", delay=0):
        model(torch.zeros(1, 2))
    assert "counting: 100%" in capsys.readouterr().err
    assert not any(module._forward_hooks for module in model.modules())
    with layers_bar(model, "counting"):
        model(torch.zeros(1, 2))
    assert not capsys.readouterr().err
