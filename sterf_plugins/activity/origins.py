"""Where each tensor of a forward pass comes from: from weights, or from neurons, whose spikes it may still hold."""

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based.op_counter import BaseCounter
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..undisturbed import tensors_in

# Operators that give whole numbers of spikes for whole numbers of spikes: they add, or they move and select.
ADDING = {"add", "sum", "cumsum", "index_add", "scatter_add", "col2im"}
SELECTING = """
    clone copy _to_copy cat stack index _unsafe_index index_select index_put index_copy gather scatter masked_select
    masked_fill where constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d roll flip repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle im2col tril triu sort topk unsafe_split unsafe_split_with_sizes unsafe_chunk split_with_sizes_copy
    narrow_copy slice_scatter select_scatter masked_scatter take take_along_dim rot90 max min amax amin maximum
    minimum relu clamp clamp_min clamp_max hardtanh round max_pool2d_with_indices max_pool3d_with_indices
    mkldnn_max_pool2d adaptive_max_pool2d adaptive_max_pool3d max_unpool2d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact2d
"""
KEEPING = ADDING.union(SELECTING.split())
REDUCING = {"sum", "mean", "max", "min", "amax", "amin", "var", "std", "logsumexp", "prod"}
ZEROS = {"zeros", "zeros_like", "new_zeros"}
FLATTENING = {"view", "_unsafe_view", "_reshape_alias"}


class Origin(NamedTuple):
    """What an activation is made of.

    Attributes:
        norm: how many spikes the value 1 stands for; 0 for zeros, and ``None`` for analog numbers.
        senders: names of the neuron layers that it was computed from, in whose time steps it is.
        binary: whether no value can be more than one spike.
    """

    norm: float | None
    senders: frozenset[str]
    binary: bool = False


class Origins(BaseCounter):
    """Follows the tensors of a forward pass through its operators, and counts nothing.

    What is computed from weights alone is a weight, such as one that is normalised or cast anew in each pass. Spikes remain
    spikes behind the operators in ``KEEPING`` on spikes of one size, where a number that is no tensor scales them, and where
    binary ones gate each other. All else is analog.

    Args:
        model: the module whose parameters and buffers are the weights.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        # Tensors are known by their memory, which views share. A reference to memory that was freed is equal to no other.
        self._weights = {StorageWeakRef(w.untyped_storage()) for w in (*model.parameters(), *model.buffers())}
        self._fixed: set[StorageWeakRef] = set()
        self._origins: dict[StorageWeakRef, Origin] = {}
        self._shapes: dict[tuple[StorageWeakRef, torch.Size], torch.Size] = {}

    def start(self) -> None:
        """Begin a forward pass: nothing comes from neurons yet."""
        self._fixed = set(self._weights)
        self._origins.clear()
        self._shapes.clear()

    def is_weight(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter or a buffer, a view of one, or was computed from them alone in this forward pass."""
        return StorageWeakRef(x.untyped_storage()) in self._fixed

    def address(self, x: Tensor) -> Hashable | None:
        """Where a parameter or buffer, or a view of one, lies in memory; ``None`` for what a forward pass has computed."""
        memory = StorageWeakRef(x.untyped_storage())
        return (memory, x.storage_offset()) if memory in self._weights else None

    def of(self, x: Tensor) -> Origin | None:
        """The origin of an activation; ``None`` if no neuron had a part in it."""
        return self._origins.get(StorageWeakRef(x.untyped_storage()))

    def note(self, x: Tensor, origin: Origin | None) -> None:
        """Remember the origin of an activation and of its views."""
        memory = StorageWeakRef(x.untyped_storage())
        if origin is None:
            self._origins.pop(memory, None)
        else:
            self._origins[memory] = origin

    def shape(self, x: Tensor) -> torch.Size:
        """The shape of a tensor, or the one that it had before it was flattened for a product of matrices."""
        return self._shapes.get((StorageWeakRef(x.untyped_storage()), x.shape), x.shape)

    def has_rule(self, func: Any) -> bool:
        return hasattr(func, "is_view")  # all but higher-order functions

    def count(self, func, args, kwargs, out, **where) -> int:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in FLATTENING and out.ndim < args[0].ndim:
            self._shapes[StorageWeakRef(out.untyped_storage()), out.shape] = args[0].shape
        if func.is_view or name == "_unsafe_view":
            return 0
        operands = _tensors((args, kwargs))
        from_weights = bool(operands) and all(map(self.is_weight, operands))
        origin = None if from_weights else self._of_result(name.rstrip("_"), args, kwargs, operands)
        for y in _tensors(out):
            self.note(y, origin)
            (self._fixed.add if from_weights else self._fixed.discard)(StorageWeakRef(y.untyped_storage()))
        return 0

    def _of_result(self, name: str, args: Any, kwargs: Any, operands: list[Tensor]) -> Origin | None:
        if name in ZEROS or (name == "scalar_tensor" and not args[0]):
            return Origin(0.0, frozenset(), binary=True) if self._origins else None
        if name == "copy":
            operands = operands[1:]  # what was there before is overwritten
        numbers = [x for x in operands if x.dtype != torch.bool]  # without masks, and without indices
        if name != "mul" and any(x.is_floating_point() for x in numbers):
            numbers = [x for x in numbers if x.is_floating_point()]
        known = [origin for origin in map(self.of, numbers) if origin]
        if not known:
            return None
        senders = frozenset[str]().union(*(origin.senders for origin in known))
        if name in REDUCING and _over_time(*args[:2]):
            senders = frozenset()
        norm = _norm(name, args, kwargs, known) if len(known) == len(numbers) else None
        return Origin(norm, senders, name not in ADDING and all(origin.binary for origin in known))


def _norm(name: str, args: Any, kwargs: Any, known: list[Origin]) -> float | None:
    """How many spikes the value 1 stands for in the result of an operator on spikes; ``None`` if it gives no spikes."""
    if any(origin.norm is None for origin in known):
        return None
    norms = [origin.norm for origin in known if origin.norm]  # zeros fit in with spikes of any size
    number = next((x for x in args[1:2] if isinstance(x, (int, float))), None)
    if name in ("mul", "div") and len(known) == 1 and not kwargs:
        norm = known[0].norm or 0.0
        if number is None:
            return norm if name == "mul" else None  # the other factor may be a mask
        return norm * (number if name == "div" else 1 / number) if number > 0 else None
    if name == "mul" and all(origin.binary for origin in known):
        return math.prod(norms) if len(norms) == len(known) else 0.0
    if name not in KEEPING or len(set(norms)) > 1 or (name == "add" and (number or kwargs)):
        return None
    return norms[0] if norms else 0.0


def _over_time(x: Any, axes: Any = None) -> bool:
    """Whether a reduction takes the leading axis, which is that of time."""
    axes = [axes] if isinstance(axes, int) else axes
    return isinstance(axes, list) and (0 in axes or -x.ndim in axes)


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors with a memory among arguments or results."""
    return [x for x in tensors_in(tree) if x.layout is torch.strided]
