"""Synaptic operations and energy of a forward pass, through SpikingJelly's dispatch counter.

SpikingJelly's own ``SynOpCounter`` takes binary spikes only; the rules here count an integer spike n as n
accumulations, and tell analog operands (multiply-accumulates) from spikes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based.op_counter import BaseCounter, DispatchCounterMode, SimpleEnergyCostConfig
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from ..firing import neuron_layers
from ..undisturbed import undisturbed
from .single_products import single_products
from .uncounted import Uncounted

aten = torch.ops.aten
ENERGY = SimpleEnergyCostConfig.fp32()  # 45 nm, Horowitz 2014: 4.6 pJ a MAC, 0.9 pJ an AC
ASSUMPTIONS = (
    "45 nm, 32-bit floating point (Horowitz 2014): {mac} pJ a multiply-accumulate (MAC), {ac} pJ an accumulation (AC).",
    "Behind the first neuron, an operand is a spike tensor if all its values are whole numbers of spikes; an integer "
    "spike n counts as n ACs. Everything else is analog and counts as MACs: the first layer does, whatever the image.",
    "Products of two activations (attention) are listed on their own; the first spike operand drives them. Softmax "
    "attention is counted in its plain form: all pairs of tokens, masked or not, and scaled queries are analog.",
    "Normalisation, elementwise functions, neuron updates, sums, pooling, resizing and memory access are not counted.",
)


@dataclass
class LayerOperations:
    """Operations of one module itself, without those of its children, summed over all inputs.

    Attributes:
        macs: multiply-accumulates with an analog operand.
        acs: accumulations that spikes drive.
        dense: MACs that the same operations would take on dense operands.
    """

    macs: int = 0
    acs: int = 0
    dense: int = 0

    @property
    def energy(self) -> float:
        """Energy in pJ, by the costs in ``ENERGY``."""
        return self.macs * ENERGY.e_mac_pj + self.acs * ENERGY.e_ac_pj


@dataclass
class Operations:
    """Operations by layer, summed over ``num_inputs`` inputs.

    Attributes:
        layers: module name -> operations; those of products of two activations have a name that ends in " (product)".
        num_inputs: number of inputs that went through the model.
        not_counted: operators that may do arithmetic but that nobody knows how to count, and their calls; the numbers
            are too small by what these do. Kernels that are launched past PyTorch's operators cannot be seen at all.
    """

    layers: dict[str, LayerOperations] = field(default_factory=dict)
    num_inputs: int = 0
    not_counted: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> LayerOperations:
        """The sum over all layers."""
        parts = self.layers.values()
        return LayerOperations(sum(p.macs for p in parts), sum(p.acs for p in parts), sum(p.dense for p in parts))

    @staticmethod
    def assumptions() -> str:
        """What the numbers assume and leave out, as a few lines of text."""
        return "\n".join(line.format(mac=ENERGY.e_mac_pj, ac=ENERGY.e_ac_pj) for line in ASSUMPTIONS)


@torch.no_grad()
def count_operations(model: nn.Module, *inputs: Tensor) -> Operations:
    """Count the operations of forward passes in eval mode, neurons reset before each; the model is left as it was.

    Fused kernels for attention and recurrent layers are off meanwhile, so that each of their products is counted.

    Args:
        model: any module; of an OpenMMLab detector or segmentor only ``extract_feat`` runs.
        inputs: batches, (N, C, H, W) or (T, N, C, H, W) each.

    Returns:
        The operations of each layer that has any, summed over all inputs, and which operators could not be counted.

    Raises:
        ValueError: there are no inputs.
    """
    if not inputs:
        raise ValueError("`inputs` is empty; give at least one batch.")
    spikes = _Spikes(model)
    counters = {kind: _Counter(kind, spikes) for kind in ("macs", "acs", "dense")}
    products = {kind: _Counter(kind, spikes, products=True) for kind in counters}
    uncounted = Uncounted(counters["dense"])
    mode = DispatchCounterMode([*counters.values(), *products.values(), uncounted])
    forward = getattr(model, "extract_feat", model)
    with undisturbed(model) as start_afresh, spikes, mode, single_products(model):
        for batch in inputs:
            spikes.start()
            start_afresh()
            forward(batch)
    result = Operations(num_inputs=sum(b.shape[b.ndim - 4] for b in inputs), not_counted=uncounted.calls())
    names = [name for name, _ in model.named_modules()]
    for group, suffix in ((counters, ""), (products, " (product)")):
        own = {kind: _exclusive(counter.totals()) for kind, counter in group.items()}
        for name in names:
            values = {kind: own[kind].get(name, 0) for kind in own}
            if values["dense"]:
                result.layers[(name or type(model).__name__) + suffix] = LayerOperations(**values)
    return result


class _Spikes:
    """Context manager that tells which tensors of a forward pass are spikes, and how many each value stands for."""

    def __init__(self, model: nn.Module):
        self._neurons = neuron_layers(model)
        self._norms = sorted({1.0, *(norm for _, _, norm in self._neurons.values())})
        # Address of a neuron output's memory -> the output, and what the number of spikes was divided by.
        self._neuron_outputs: dict[int, tuple[Tensor, float]] = {}
        self._handles: list[Any] = []
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def __enter__(self) -> "_Spikes":
        for module, _, norm in self._neurons.values():

            def remember(module, arguments, y, norm=norm):
                y = y if isinstance(y, Tensor) else y[0]
                # As long as the tensor is kept, no other one can get its address.
                self._neuron_outputs[y.untyped_storage().data_ptr()] = (y, norm)

            self._handles.append(module.register_forward_hook(remember))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._neuron_outputs.clear()

    def start(self) -> None:
        """Begin a forward pass: nothing is a spike before the first neuron, even if an image has whole numbers."""
        self._neuron_outputs.clear()

    def is_weight(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter, or a view of one."""
        return x.untyped_storage().data_ptr() in self.weights

    def counts(self, x: Tensor) -> Tensor | None:
        """Number of spikes that each value of a tensor stands for; ``None`` for an analog tensor."""
        if not self._neuron_outputs or not x.is_floating_point() or self.is_weight(x) or x.min() < 0:
            return None
        neuron_output = self._neuron_outputs.get(x.untyped_storage().data_ptr())
        for norm in [neuron_output[1]] if neuron_output else self._norms:
            scaled = x * norm
            if torch.equal(scaled, scaled.round()):
                return scaled
        return None


class _Counter(BaseCounter):
    """Counts one kind of operation in every matrix product and convolution.

    Args:
        kind: "macs" of analog operands, "acs" that spikes drive, or "dense" for MACs as if all operands were dense.
        spikes: tells which operands are spikes.
        products: count the products of two activations alone, instead of those with a weight.
    """

    def __init__(self, kind: str, spikes: _Spikes, products: bool = False):
        super().__init__()
        self._kind, self._spikes, self._products = kind, spikes, products
        self.rules: dict[Any, Callable] = {
            getattr(operator, overload): self._by_shapes(formula)
            for operator, formula in flop_registry.items()
            if hasattr(operator, "overloads")  # users may have registered Triton kernels, too
            for overload in operator.overloads()
        } | {
            aten.mm.default: lambda args, kwargs, out: self._matrices(args[0], args[1]),
            aten.addmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2]),
            aten.bmm.default: lambda args, kwargs, out: self._matrices(args[0], args[1]),
            aten.baddbmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2]),
            aten.addbmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2]),
            aten.mv.default: lambda args, kwargs, out: self._matrices(args[0], args[1][:, None]),
            aten.addmv.default: lambda args, kwargs, out: self._matrices(args[1], args[2][:, None]),
            aten.dot.default: lambda args, kwargs, out: self._matrices(args[0][None], args[1][:, None]),
            aten.convolution.default: self._convolution,
            aten._scaled_dot_product_flash_attention_for_cpu.default: self._by_shapes(
                flop_registry[aten._scaled_dot_product_flash_attention]
            ),
        }

    def totals(self) -> dict[str, int]:
        return {scope: sum(values.values()) for scope, values in self.get_counts().items()}

    def _by_shapes(self, formula: Callable) -> Callable:
        """A rule for an operator of which PyTorch's flop counter knows the cost of dense operands, and no more."""

        def rule(args, kwargs, out) -> int:
            with_weight = any(self._spikes.is_weight(x) for x in args if isinstance(x, Tensor))
            if self._products == with_weight or self._kind == "acs":
                return 0
            return formula(*args, **kwargs, out_val=out) // 2  # a multiplication and an addition are one MAC

        return rule

    def _matrices(self, x: Tensor, y: Tensor) -> int:
        if self._products == (self._spikes.is_weight(x) or self._spikes.is_weight(y)):
            return 0
        dense = x.numel() * y.shape[-1]
        if self._kind == "dense":
            return dense
        for operand, uses in ((x, y.shape[-1]), (y, x.shape[-2])):  # uses: products that each element is in
            counts = self._spikes.counts(operand)
            if counts is not None:
                return int(counts.sum(dtype=torch.float64)) * uses if self._kind == "acs" else 0
        return dense if self._kind == "macs" else 0

    def _convolution(self, args, kwargs, out: Tensor) -> int:
        x, w, _, stride, padding, dilation, transposed, output_padding, groups = args[:9]
        if self._products:
            return 0
        dense = (x.numel() if transposed else out.numel()) * w[0].numel()
        if self._kind == "dense":
            return dense
        counts = self._spikes.counts(x)
        if counts is None:
            return dense if self._kind == "macs" else 0
        if self._kind == "macs":
            return 0
        ones = torch.ones_like(w, dtype=torch.float64)
        # With a kernel of ones, each spike counts once for every output element that it reaches.
        uses = aten.convolution.default(
            counts.double(), ones, None, stride, padding, dilation, transposed, output_padding, groups
        )
        return int(uses.sum())


def _exclusive(totals: dict[str, int]) -> dict[str, int]:
    """Operations of each module by name, without those of modules called in it; ``totals`` has ``<root>.<name>``."""
    own = {scope.partition(".")[2]: value for scope, value in totals.items() if scope != "Global"}
    inclusive = dict(own)
    for name, value in inclusive.items():
        parts = name.split(".") if name else []
        around = (".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1))
        parent = next((a for a in around if a in inclusive), None)  # containers are not called themselves
        if name and parent is not None:
            own[parent] -= value
    return own
