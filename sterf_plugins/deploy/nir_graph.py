"""Convolutional spiking networks as graphs of NIR, the Neuromorphic Intermediate Representation.

SpikingJelly's own exchange translates convolutions and neurons, here one at a time. What it does not know is added: layers of
receptive fields, norms behind convolutions, neurons that forget their state, leaky integrators, for which NIR has a node, and
average pooling, whose node says nothing of sizes, so that it cannot be translated on its own.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..backbones import SpikingCNN
from ..backbones.spiking_cnn import Layer
from ..checks import check_floating, check_module, number_above, require
from ..files import replacing
from ..functional import decay
from ..layers import StatelessNode
from ..layers.closed_form import IFNode, LIFNode
from ..stems import ConvStem, CovariantRFConv2d, CovariantStem, CovariantSTStem, TemporalRF
from ..undisturbed import undisturbed

if TYPE_CHECKING:
    import nir

_TRANSLATED = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten)  # pooling here, the others by SpikingJelly
_CHAINS = (SpikingCNN, Layer, ConvStem, CovariantStem, CovariantSTStem)
_ALLOWED = (
    "convolutions, BatchNorms behind them, linear layers, average pooling, flattening, IF, LIF and parametric LIF neurons "
    "with a hard reset, leaky integrators, covariant stems, and chains of these"
)


def to_nir(
    model: nn.Module, example: Tensor, path: str | os.PathLike | None = None, dt: float = 1e-4
) -> "nir.NIRGraph":
    """Translate a chain of convolutions and spiking neurons into a graph of NIR.

    The graph describes a network in time, without a time axis. Read back by SpikingJelly's ``import_from_nir``, or by any
    reader that takes steps of ``dt`` with forward Euler, it gives the outputs that the model gives step by step.

    Args:
        model: ``SpikingCNN``, ``nn.Sequential`` or another chain of layers; it is left as it is.
        example: one time step of its input, (B, C, H, W).
        path: file to write the graph to, such as "network.nir", which appears when it is whole.
        dt: duration of a time step in seconds.

    Returns:
        The graph.

    Raises:
        ValueError: a layer has no node in NIR, such as attention, or a neuron holds its input for ``T`` steps; the message
            names it.
        TypeError: ``model`` is no module, or ``example`` no tensor of floating point.
        NotImplementedError: SpikingJelly cannot translate the layer's settings, such as groups or a soft reset.
    """
    check_module("model", model)
    check_floating("example", example)
    dt = number_above("dt", dt, 0)
    require("nirtorch", extra="interfaces")
    import nir
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    nodes: list[Any] = [nir.Input({"input": np.array(example.shape[1:])})]
    x = example
    with undisturbed(model), torch.no_grad():
        for layer in _folded(_chain("", model)):
            if isinstance(layer, TemporalRF):
                nodes += _integrators(layer, tuple(x.shape[1:]), dt)
                x = layer(x.unsqueeze(0))[0][0]
                continue
            if isinstance(layer, nn.AvgPool2d):
                nodes.append(_pooling(layer))
                x = layer(x)
                continue
            translated = export_to_nir(nn.Sequential(layer), x, dt=dt).nodes.values()
            nodes += [node for node in translated if not isinstance(node, nir.Input | nir.Output)]
            x = layer(x)
    graph = nir.NIRGraph.from_list(*nodes, nir.Output({"output": np.array(x.shape[1:])}))
    if path is not None:
        with replacing(path) as partial:
            nir.write(partial, graph)
    return graph


def _chain(name: str, module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a chain, one after another, as plain layers of PyTorch and SpikingJelly that take single steps.

    A layer that stands at several places of the chain comes as often.
    """
    where = f"{name}, a {type(module).__name__}," if name else f"a {type(module).__name__}"
    if isinstance(module, StatelessNode) and module.T is not None:
        raise ValueError(
            f"`model` has {where} with T={module.T}: it holds its input for {module.T} steps and gives the mean of its spikes, "
            f"and a graph of NIR describes single steps. Build the neuron without T, and run the graph for {module.T} steps."
        )
    node: Any = module.node if isinstance(module, StatelessNode) else module
    if isinstance(module, nn.Identity | nn.Dropout):
        return
    if isinstance(module, CovariantRFConv2d):
        yield module.fuse()
    elif isinstance(node, IFNode) or type(node) is neuron.IFNode:
        yield neuron.IFNode(node.v_threshold, node.v_reset)
    elif isinstance(node, LIFNode) or type(node) is neuron.LIFNode:
        yield neuron.LIFNode(node.tau, node.decay_input, node.v_threshold, node.v_reset)
    elif type(node) is neuron.ParametricLIFNode:
        tau = 1 / node.w.sigmoid().item()
        yield neuron.LIFNode(tau, node.decay_input, node.v_threshold, node.v_reset)
    elif type(module).forward is nn.Sequential.forward or isinstance(module, _CHAINS):
        for child, layer in module.named_modules(remove_duplicate=False):
            if child and "." not in child:
                yield from _chain(f"{name}.{child}".lstrip("."), layer)
    elif isinstance(module, TemporalRF | nn.BatchNorm2d) or type(module) in _TRANSLATED:
        yield module
    else:
        raise ValueError(f"`model` has {where} for which NIR has no node; allowed: {_ALLOWED}.")


def _folded(layers: Iterator[nn.Module]) -> list[nn.Module]:
    """The layers with each BatchNorm folded into the convolution in front of it."""
    found: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, nn.BatchNorm2d):
            found.append(layer)
        elif layer.running_mean is None:
            raise ValueError("`model` has a BatchNorm without running statistics, which NIR has no node for.")
        elif found and isinstance(found[-1], nn.Conv2d):
            found[-1] = fuse_conv_bn_eval(found[-1].eval(), layer.eval())
        else:
            raise ValueError("`model` has a BatchNorm that follows no convolution, which NIR has no node for.")
    return found


def _pooling(layer: nn.AvgPool2d) -> Any:
    import nir

    if layer.ceil_mode or layer.divisor_override is not None or not layer.count_include_pad:
        raise ValueError(
            f"`model` has {layer}, for which NIR has no node; allowed: ceil_mode=False, count_include_pad=True, and no "
            f"divisor_override."
        )
    sizes = (layer.kernel_size, layer.stride, layer.padding)
    return nir.AvgPool2d(*(np.broadcast_to(size, 2).copy() for size in sizes))  # rows, columns


def _integrators(field: TemporalRF, shape: tuple[int, ...], dt: float) -> list[Any]:
    """A 1x1 convolution that repeats the channels for each time scale, and leaky integrators or LIF neurons of all scales."""
    import nir

    kinds = (field.kind, field.mode, field.combine)
    if field.kind not in ("li", "lif") or field.mode != "parallel" or field.combine != "stack" or field.reset != "hard":
        raise ValueError(
            f"a TemporalRF with kind, mode and combine {kinds} and reset {field.reset!r} has no node in NIR; allowed: "
            f"'li' or 'lif', 'parallel', 'stack', and 'hard'."
        )
    channels, height, width = shape
    copies = np.tile(np.eye(channels, dtype=np.float32), (field.scales, 1))[..., None, None]
    scales = (1 / (1 - decay(field.mus.double(), field.dt, field.method))).numpy()  # in steps, for forward Euler
    of_all = np.broadcast_to(scales.reshape(field.scales, -1, 1, 1), (field.scales, channels, height, width))
    tau = of_all.reshape(-1, height, width).astype(np.float32)
    r, zero = (np.ones_like(tau) if field.gain == "area" else tau), np.zeros_like(tau)
    options = dict(tau=tau * np.float32(dt), r=r, v_leak=zero)
    spiking = dict(v_threshold=np.full_like(tau, field.th), v_reset=zero)
    copy = nir.Conv2d((height, width), copies, 1, 0, 1, 1, np.zeros(len(copies), np.float32))
    return [copy, nir.LI(**options) if field.kind == "li" else nir.LIF(**options, **spiking)]
