"""Arguments that a checkpoint does not bring: loading weights beside others is told."""

import copy

import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import nn

from sterf_plugins.backbones import ScaleCovariantNet, Spikformer
from sterf_plugins.backbones.qkformer import TokenAttention
from sterf_plugins.layers import IntegerSpike, SpikeAttention, ilif_node, lif_node
from sterf_plugins.layers.lif_layers import SelfAttention
from sterf_plugins.layers.merged_time import MergedTimeNeuron
from sterf_plugins.mixers import SRB, MLPixer

SMALL = dict(dims=(4,), depths=(0,), strides=(2,), in_chans=1)
# what is built, with which argument, and with which other one
CASES = {
    "levels": (IntegerSpike, dict(levels=4), dict(levels=8)),
    "norm": (IntegerSpike, dict(), dict(norm=1)),
    "layout": (lambda layout: SRB(4, 2, layout=layout), dict(layout="raster"), dict(layout="channel")),
    "the other layout": (lambda layout: MLPixer(4, 2, layout=layout), dict(layout="channel"), dict(layout="raster")),
    "scale": (lambda factor: SpikeAttention(8, 2, factor=factor), dict(factor=2.0), dict(factor=1.0)),
    "num_heads": (SelfAttention, dict(num_heads=2), dict(num_heads=4)),
    "heads of tokens": (lambda num_heads: TokenAttention(8, num_heads), dict(num_heads=2), dict(num_heads=4)),
    "tau": (lif_node, dict(), dict(tau=3.0)),
    "v_reset": (lif_node, dict(), dict(v_reset=None)),
    "decay_input": (lif_node, dict(), dict(decay_input=False)),
    "levels of a neuron": (ilif_node, dict(), dict(surrogate_function=surrogate.MultiLevelSpikeCount(8))),
    "steps of a neuron": (lif_node, dict(T=2), dict(T=4)),
    "steps of images": (lambda T: MergedTimeNeuron(nn.Identity(), T), dict(T=2), dict(T=4)),
    "T": (lambda T: Spikformer(1, 8, 1, T=T), dict(T=4), dict(T=1)),
    "pool": (lambda pool: ScaleCovariantNet(pool=pool, **SMALL), dict(pool="max"), dict(pool="logsumexp")),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_beside_other_arguments_are_told(name, tmp_path, recwarn):
    build, options, others = CASES[name]
    torch.save(nn.Sequential(build(**options)).state_dict(), tmp_path / "weights.pth")
    state = torch.load(tmp_path / "weights.pth")
    nn.Sequential(build(**options)).load_state_dict(state)
    copy.deepcopy(nn.Sequential(build(**options))).load_state_dict(state)
    nn.Sequential(build(**others)).load_state_dict(dict(state))  # without metadata nothing is known
    assert not recwarn
    with pytest.warns(
        UserWarning, match="weights that were saved with .*=.* are loaded into a model with .*=.* the network is not"
    ):
        nn.Sequential(build(**others)).load_state_dict(state)


def test_what_changes_gradients_alone_is_not_told(recwarn):
    lif_node(detach_reset=True).load_state_dict(lif_node(detach_reset=False).state_dict())
    assert not recwarn
