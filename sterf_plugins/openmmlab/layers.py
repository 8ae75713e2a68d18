"""Mixers and neurons as mmcv building blocks: plugin layers for ResNet bottlenecks, and an activation layer."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .. import plugins
from ..layers.spiking_nodes import check_takes_maps
from ..registry import MODELS


@MODELS.register_module()
class MixerPlugin(nn.Module):
    """A channel mixer with its residual, ``x + mixer(x)``, as an mmcv plugin layer; (B, C, H, W) in and out.

    Use in a ResNet with bottlenecks::

        plugins=[dict(cfg=dict(type='sterf_plugins.SRBPlugin', ratio=4),
                      stages=(False, True, True, True), position='after_conv2')]

    Args:
        in_channels: channels, filled in by mmcv.
        mixer: name in the group ``sterf_plugins.mixers``, a dict with ``type``, or a factory.
        ratio: the mixer has ``ratio * in_channels`` hidden channels.
        **options: the mixer's options, such as ``levels``, ``layout``, ``norm_hidden``, ``drop``.
    """

    _abbr_ = "mixer_plugin"

    def __init__(self, in_channels: int, mixer: str | Mapping | Callable = "srb", ratio: int = 4, **options):
        super().__init__()
        spec = {**mixer, **options} if isinstance(mixer, Mapping) else {"type": mixer, **options}
        self.mixer = plugins.resolve("mixers", spec)(in_channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(x)


@MODELS.register_module()
class MLPixerPlugin(MixerPlugin):
    """``MixerPlugin`` with the MLPixer mixer."""

    _abbr_ = "mlpixer_plugin"

    def __init__(self, in_channels: int, ratio: int = 4, **options):
        super().__init__(in_channels, "mlpixer", ratio, **options)


@MODELS.register_module()
class SRBPlugin(MixerPlugin):
    """``MixerPlugin`` with the SRB mixer."""

    _abbr_ = "srb_plugin"

    def __init__(self, in_channels: int, ratio: int = 4, **options):
        super().__init__(in_channels, "srb", ratio, **options)


@MODELS.register_module()
class SpikingAct(nn.Module):
    """A spiking neuron as an mmcv activation layer, ``act_cfg=dict(type='sterf_plugins.SpikingAct')``.

    The output has the shape of the input. It makes any module with an ``act_cfg`` spiking, such as ConvModule, FPN,
    FCNMaskHead and decode heads.

    Args:
        neuron: name in the entry-point group ``sterf_plugins.neurons``, a dict with ``type``, or a factory. Neurons with
            dynamics need ``T``, the number of time steps for which the input is repeated.
        inplace: accepted for mmcv, which passes it to every activation; there is nothing to do in place.
        **options: the neuron's options, such as ``levels``.

    Raises:
        ValueError: the neuron has dynamics and no ``T``.
    """

    def __init__(self, neuron: str | Mapping | Callable = "integer", inplace: bool = False, **options):
        super().__init__()
        spec = {**neuron, **options} if isinstance(neuron, Mapping) else {"type": neuron, **options}
        self.neuron = check_takes_maps(plugins.resolve("neurons", spec)())

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x)
