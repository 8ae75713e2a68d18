"""Synaptic operations of a forward pass, through SpikingJelly's dispatch counter, and what an energy model asks for.

SpikingJelly's own counters take binary spikes only; the rules here count an integer spike n as n accumulations, and
tell analog operands (multiply-accumulates) from spikes.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based.op_counter import BaseCounter, DispatchCounterMode, SimpleEnergyCostConfig
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import flop_registry

from ..checks import begins_with_volumes, check_module
from ..undisturbed import undisturbed
from .single_products import single_products
from .spikes import NeuronOperations, Spikes
from .uncounted import Uncounted

aten = torch.ops.aten
ENERGY = SimpleEnergyCostConfig.fp32()  # 45 nm, Horowitz 2014: 4.6 pJ a MAC, 0.9 pJ an AC
ASSUMPTIONS = (
    "45 nm, 32-bit floating point (Horowitz 2014): {mac} pJ a multiply-accumulate (MAC), {ac} pJ an accumulation (AC).",
    "An operand is a spike tensor if it is what neurons sent, moved, selected, added, gated by binary spikes or scaled by a "
    "constant, in whole numbers of spikes of one size; an integer spike n counts as n ACs. Everything else is analog and counts "
    "as MACs: averages, differences, learnt scales, and the first layer, whatever the image.",
    "The mean of T binary spikes that a held image gives counts as T spikes at most; weights that a layer computes anew in "
    "each pass, as those of receptive fields, are taken as they are in the folded layer.",
    "Products of two activations (attention) are listed on their own; the first spike operand drives them, and what they give, "
    "such as k^T v, is no spikes. Softmax attention is counted in its plain form: all pairs of tokens, masked or not.",
    "The energy of the computation alone leaves out normalisation, elementwise functions, neuron updates, sums, pooling, "
    "resizing and memory access. The models memory and full add weights and potentials, the latter addresses and activations.",
)


@dataclass
class LayerOperations:
    """Operations of one module itself, without those of its children, summed over all inputs.

    Attributes:
        macs: multiply-accumulates with an analog operand.
        acs: accumulations that spikes drive.
        dense: MACs that the same operations would take on dense operands.
        spikes: spikes that arrive.
        inputs: activations that arrive, spikes or not, in all time steps.
        outputs: sums that leave, in all time steps.
        biases: additions of a bias.
        weights: numbers in all weights and biases of the layer that were used, each once; in a product of two activations, of
            the operand that does not drive it, for one input.
        kernel: output channels times elements of the kernel window; 0 if the layer is no convolution.
        levels: D, the most spikes in one value of the operand, a sum of several neurons' spikes included; 0 for analog
            operands.
        steps: T, the time steps that the layer runs for.
        product: whether two activations are multiplied.
    """

    macs: int = 0
    acs: int = 0
    dense: int = 0
    spikes: int = 0
    inputs: int = 0
    outputs: int = 0
    biases: int = 0
    weights: int = 0
    kernel: int = 0
    levels: int = 0
    steps: int = 1
    product: bool = False

    @property
    def energy(self) -> float:
        """Energy in pJ, of the computation alone, by the costs in ``ENERGY``."""
        return self.macs * ENERGY.e_mac_pj + self.acs * ENERGY.e_ac_pj

    def add(self, other: "LayerOperations") -> None:
        """Add what another call of the same layer did."""
        for name in ("macs", "acs", "dense", "spikes", "inputs", "outputs", "biases"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("kernel", "levels", "steps"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


@dataclass
class Operations:
    """Operations by layer, summed over ``num_inputs`` inputs.

    Attributes:
        layers: module name -> operations; those of products of two activations have a name that ends in " (product)".
        neurons: name of the neuron layer -> what it did.
        num_inputs: number of inputs that went through the model.
        not_counted: operators that may do arithmetic but that nobody knows how to count, and their calls; the numbers
            are too small by what these do. Kernels that are launched past PyTorch's operators cannot be seen at all.
    """

    layers: dict[str, LayerOperations] = field(default_factory=dict)
    neurons: dict[str, NeuronOperations] = field(default_factory=dict)
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
        inputs: batches, (N, C, H, W) or (T, N, C, H, W) each; also (N, C).

    Returns:
        The operations of each layer that has any, summed over all inputs, and which operators could not be counted.

    Raises:
        TypeError, ValueError: ``model`` is no module, there are no inputs, or they are no such batches, or a neuron gives NaN.
    """
    check_module("model", model)
    if not inputs:
        raise ValueError("`inputs` is empty; give at least one batch.")
    numbers = [_number_of(batch) for batch in inputs]
    _check_no_volumes(model, inputs)
    spikes = Spikes(model)
    counter = _Counter(model, spikes)
    uncounted = Uncounted(counter)
    forward = getattr(model, "extract_feat", model)
    with (
        undisturbed(model) as start_afresh,
        spikes,
        DispatchCounterMode([counter, uncounted, spikes.origins]),
        single_products(model),
    ):
        for batch, number in zip(inputs, numbers, strict=True):
            spikes.start(batch, number)
            counter.start(number)
            start_afresh()
            forward(batch)
    return Operations(counter.layers(), spikes.neurons, sum(numbers), uncounted.calls())


def _number_of(batch: Any) -> int:
    """Number of inputs in a batch.

    Raises:
        TypeError, ValueError: it is no batch whose axes are known.
    """
    if not isinstance(batch, Tensor):
        raise TypeError(f"`inputs` has a {type(batch).__name__}; each batch must be a tensor.")
    if batch.ndim not in (2, 4, 5) or not batch.numel():
        raise ValueError(
            f"`inputs` has shape {tuple(batch.shape)}; it must be (N, C, H, W) or (T, N, C, H, W), or (N, C)."
        )
    return batch.shape[1 if batch.ndim == 5 else 0]


def _check_no_volumes(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise ``ValueError`` if batches of five axes may be volumes, whose channels would count as inputs."""
    if begins_with_volumes(model) and any(batch.ndim == 5 for batch in inputs):
        raise ValueError(
            "`inputs` have five axes, which are (T, N, C, H, W), but the model begins with a Conv3d; give (N, C * D, H, W) to a "
            "module that splits axis 1 into channels and depth first: nn.Sequential(nn.Unflatten(1, (C, D)), model)."
        )


# What a rule finds: the operations of one call, the operand that drives them, and what a layer keeps for them by its role.
Counted = tuple[LayerOperations, Tensor, dict[str, Tensor | None]]


class _Counter(BaseCounter):
    """Counts the operations of every matrix product and convolution, by the innermost module that it runs in.

    Args:
        model: the module, the names of whose parts are the names of the layers.
        spikes: tells which operands are spikes.
    """

    def __init__(self, model: nn.Module, spikes: Spikes):
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}
        self._sizes = {module: sum(1 for _ in module.modules()) for module in self._names}
        self._root, self._spikes, self._is_weight = type(model).__name__, spikes, spikes.origins.is_weight
        self._found: dict[tuple[str, bool], LayerOperations] = {}
        # What drove an operation, of all its calls: lengths that the time axis may have, and the neurons behind it.
        self._drivers: dict[tuple[str, bool], set[tuple[frozenset[int], frozenset[str] | None]]] = {}
        self._calls: dict[tuple[str, bool], int] = {}
        # How many numbers each weight and bias of a layer holds, by its place in memory.
        self._stored: dict[tuple[str, bool], dict[Hashable, int]] = {}
        self._latest: tuple[tuple[str, bool], StorageWeakRef] | None = None  # the last product, and where its result is
        self._passes, self._batch = 0, 1
        self.rules: dict[Any, Callable] = {
            getattr(operator, overload): self._by_shapes(formula)
            for operator, formula in flop_registry.items()
            if hasattr(operator, "overloads")  # users may have registered Triton kernels, too
            for overload in operator.overloads()
        } | {
            aten.mm.default: lambda args, kwargs, out: self._matrices(args[0], args[1], out),
            aten.addmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2], out, args[0]),
            aten.bmm.default: lambda args, kwargs, out: self._matrices(args[0], args[1], out),
            aten.baddbmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2], out, args[0]),
            aten.addbmm.default: lambda args, kwargs, out: self._matrices(args[1], args[2], out, args[0]),
            aten.mv.default: lambda args, kwargs, out: self._matrices(args[0], args[1][:, None], out),
            aten.addmv.default: lambda args, kwargs, out: self._matrices(args[1], args[2][:, None], out, args[0]),
            aten.dot.default: lambda args, kwargs, out: self._matrices(args[0][None], args[1][:, None], out),
            aten.convolution.default: self._convolution,
            aten._scaled_dot_product_flash_attention_for_cpu.default: self._by_shapes(
                flop_registry[aten._scaled_dot_product_flash_attention]
            ),
        }

    def start(self, batch: int) -> None:
        """Begin a forward pass of so many inputs."""
        self._passes, self._batch = self._passes + 1, batch

    def has_rule(self, func: Any) -> bool:
        return func in self.rules or func is aten.add.Tensor

    def count(self, func, args, kwargs, out, active_modules=None, parent_names=None) -> int:
        # The innermost module holds the fewest others; a layer that two parts share has its name from the first of them.
        inside = [m for m in active_modules or () if m in self._names]
        module = min(inside, key=lambda m: (self._sizes[m], self._names[m]), default=None)
        name = self._names.get(module, "")
        if func is aten.add.Tensor:
            self._note_bias(args[0], args[1], out)
            return 0
        computes_weight = all(self._is_weight(x) for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if computes_weight or (hasattr(module, "folded") and func is not aten.convolution.default):
            return 0  # the layer computes its weight anew; it is taken as folded, as BatchNorm is
        found, driving, stored = self.rules[func](args, kwargs, out)
        key, origin = (name, found.product), self._spikes.origins.of(driving)
        if found.levels and origin:  # a sum of spikes may have more of them than any neuron sends
            found.levels = max([found.levels, *(self._spikes.senders[sender].levels for sender in origin.senders)])
        self._found.setdefault(key, LayerOperations(product=found.product)).add(found)
        self._calls[key] = self._calls.get(key, 0) + 1
        self._note_stored(key, **stored)
        self._latest = (key, StorageWeakRef(out.untyped_storage())) if isinstance(out, Tensor) else None
        self._drivers.setdefault(key, set()).add(
            (self._spikes.leading(driving, merged=found.kernel > 0), origin and origin.senders)
        )
        return found.dense

    def _note_stored(self, key: tuple[str, bool], **operands: Tensor | None) -> None:
        """Remember how many numbers a layer's weight and bias hold: each parameter once, however often it is used.

        A weight that is computed anew in each pass has no address of its own, nor has an activation; the largest counts.
        """
        numbers = self._stored.setdefault(key, {})
        for role, x in operands.items():
            if x is not None:
                address = self._spikes.origins.address(x) or role
                numbers[address] = max(numbers.get(address, 0), self._numbers(x))

    def _note_bias(self, sums: Tensor, bias: Any, out: Tensor) -> None:
        """Count the bias of a matrix product that is added on its own, as where channels are not the last axis in memory."""
        if self._latest is None or not isinstance(bias, Tensor) or bias.ndim != 1 or not self._is_weight(bias):
            return
        key, memory = self._latest
        if StorageWeakRef(sums.untyped_storage()) == memory:
            self._found[key].biases += out.numel()
            self._note_stored(key, bias=bias)

    def layers(self) -> dict[str, LayerOperations]:
        """Operations by layer, in the model's order, those of products of two activations at the end."""
        layers = {}
        for name, product in sorted(self._found, key=lambda key: (key[1], self._order(key[0]))):
            found = self._found[name, product]
            calls = self._calls[name, product] // self._passes
            found.weights = sum(self._stored[name, product].values())
            found.steps = max(self._spikes.steps(*driver, calls) for driver in self._drivers[name, product])
            if found.dense:
                layers[(name or self._root) + (" (product)" if product else "")] = found
        return layers

    def _order(self, name: str) -> int:
        return list(self._names.values()).index(name)

    def _by_shapes(self, formula: Callable) -> Callable:
        """A rule for an operator of which PyTorch's flop counter knows the cost of dense operands, and no more."""

        def rule(args, kwargs, out) -> Counted:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            dense = formula(*args, **kwargs, out_val=out) // 2  # a multiplication and an addition are one MAC
            outputs = (out if isinstance(out, Tensor) else out[0]).numel()
            product = not any(self._is_weight(x) for x in tensors)
            found = LayerOperations(
                dense,
                dense=dense,
                inputs=tensors[0].numel(),
                outputs=outputs,
                product=product,
            )
            return found, tensors[0], dict(weight=tensors[1])

        return rule

    def _matrices(self, x: Tensor, y: Tensor, out: Tensor, bias: Tensor | None = None) -> Counted:
        weighted = self._is_weight(x) or self._is_weight(y)
        has_bias = bias is not None and self._is_weight(bias)
        found = LayerOperations(
            dense=x.numel() * y.shape[-1],
            outputs=out.numel(),
            biases=out.numel() if has_bias else 0,
            product=not weighted,
        )
        driving, other = (y, x) if self._is_weight(x) else (x, y)
        # In how many products each element is.
        for operand, against, uses in ((x, y, y.shape[-1]), (y, x, x.shape[-2])):
            counts = self._spikes.counts(operand)
            if counts is not None:
                driving, other = operand, against
                self._driven(found, counts)
                found.acs = found.spikes * uses
                break
        else:
            found.macs = found.dense
        found.inputs = driving.numel()
        return found, driving, dict(weight=other, bias=bias if has_bias else None)

    def _convolution(self, args, kwargs, out: Tensor) -> Counted:
        x, w, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
        found = LayerOperations(
            dense=(x.numel() if transposed else out.numel()) * w[0].numel(),
            inputs=x.numel(),
            outputs=out.numel(),
            biases=0 if bias is None else out.numel(),
            kernel=out.shape[1] * w[0, 0].numel(),
            product=not (self._is_weight(w) or self._is_weight(x)),
        )
        stored = dict(weight=w, bias=bias)
        counts = self._spikes.counts(x)
        if counts is None:
            found.macs = found.dense
            return found, x, stored
        self._driven(found, counts)
        # With a kernel of ones, each spike counts once for every output element that it reaches. All output channels of a
        # group are alike, so that one of them is enough.
        alike = w.shape[1] if transposed else w.shape[0] // groups
        shape = (w.shape[0], 1, *w.shape[2:]) if transposed else (groups, *w.shape[1:])
        ones = torch.ones(shape, dtype=torch.float64, device=w.device)
        uses = aten.convolution.default(
            counts.double(), ones, None, stride, padding, dilation, transposed, output_padding, groups
        )
        found.acs = int(uses.sum()) * alike
        return found, x, stored

    def _numbers(self, x: Tensor) -> int:
        """Numbers in a weight, be they repeated for each input, or in an activation for one input."""
        if self._is_weight(x):
            return math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
        return x.numel() // self._batch

    def _driven(self, found: LayerOperations, counts: Tensor) -> None:
        """Note that spikes drive an operation, and how many there are."""
        found.spikes, found.levels = int(counts.sum(dtype=torch.float64)), max(1, int(counts.max()))
