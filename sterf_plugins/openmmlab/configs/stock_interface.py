"""What a stock backbone gives to its neck and heads, read from the backbone itself: it is built and run on small images."""

import copy
import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from ...undisturbed import hooked, preserved_random_state, tensors_in
from .reading import revert_sync_bn
from .types import dicts_in, type_name

SIDE = 256  # a multiple of every stride of a stock backbone
ODD_SIDE = 203  # its half, quarter, … are all rounded up and down to different numbers
KINDS = {4: "map", 2: "vector"}  # of outputs, by their number of axes
Structure = int | str | list["Structure"]


@dataclass(frozen=True)
class Level:
    """One output of a backbone.

    Attributes:
        channels: number of channels.
        stride: pixels of the image for each pixel of the map.
        depth: the coarsest stride, times dilation, of the convolutions that the output was computed from. It equals ``stride``
            in a plain pyramid, and is larger in dilated backbones and in those with a decoder.
        rounding: how sizes that are no multiples of the stride are divided: "ceil" or "floor".
        kind: "map" for (B, C, H, W), or "vector" for (B, C), which is given the stride of the coarsest map before it.
    """

    channels: int
    stride: int
    depth: int
    rounding: str = "ceil"
    kind: str = "map"


@dataclass(frozen=True)
class StockInterface:
    """The outputs of a stock backbone, and what else its detector reads of it.

    Attributes:
        levels: the different outputs.
        outputs: how they are put together in training: an index into ``levels``, "image" for the input itself, or a list of such.
        eval_outputs: the same in evaluation.
        copies: how often each output repeats the batch in training.
        eval_copies: the same in evaluation.
        attributes: numbers and names that the detector reads from its backbone.
    """

    levels: list[Level]
    outputs: Structure
    eval_outputs: Structure
    copies: int = 1
    eval_copies: int = 1
    attributes: dict[str, Any] | None = None

    @property
    def is_pyramid(self) -> bool:
        """Whether the outputs are one map of each level, finest first, as those of a ResNet with or without dilation."""
        strides, depths = [level.stride for level in self.levels], [level.depth for level in self.levels]
        plain = self.outputs == self.eval_outputs == list(range(len(self.levels))) and self.copies == 1
        growing = _grow(strides) or (_grow(depths) and strides == sorted(strides) and strides[0] == depths[0])
        return plain and growing and all(level.kind == "map" for level in self.levels)

    def drop_in_arguments(self) -> dict[str, Any]:
        """The arguments of ``DropInBackbone`` by which it has this interface."""
        levels = [_changed(asdict(level), depth=level.stride, rounding="ceil", kind="map") for level in self.levels]
        every = list(range(len(levels)))
        others = _changed(
            vars(self), outputs=every, eval_outputs=self.outputs, copies=1, eval_copies=1, attributes=None
        )
        return {**others, "levels": levels}


def read_interface(model: ConfigDict, scope: str) -> StockInterface:
    """Build the backbone of a detector's or segmentor's config, run it, and describe its outputs.

    Args:
        model: the config of the model; it is not changed.
        scope: mmengine's default scope of the config, "mmdet" or "mmseg".

    Raises:
        ValueError: the stock backbone cannot be built or run here.
    """
    config = model.backbone
    fixed = config.get("img_size")
    image = (image_channels(config), *((fixed, fixed) if isinstance(fixed, int) else fixed or (SIDE, SIDE)))
    stock = build_stock(config, scope)
    attributes = {name: getattr(stock, name, None) for name in _names_read_of_a_backbone(model, scope)}
    try:
        try:
            interface = _describe(stock.to("meta"), image)
        except (RuntimeError, NotImplementedError):  # an operation that the meta device does not have
            interface = _describe(build_stock(config, scope), image)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--backbone: the config's own backbone {type_name(config)} does not run on images of {image[1]} x {image[2]} "
            f"pixels: {error}"
        ) from error
    plain = {name: value for name, value in attributes.items() if isinstance(value, (bool, int, float, str))}
    return StockInterface(**{**vars(interface), "attributes": plain or None})


def image_channels(backbone: ConfigDict) -> int:
    """The number of image channels in a backbone's config, or in that of the backbone inside it; 3 by default."""
    inner = backbone.get("backbone_cfg") or {}
    return backbone.get("in_channels", inner.get("in_channels", 3))


def build_stock(config: ConfigDict, scope: str) -> Any:
    """The stock backbone with random weights, on the CPU, without gradient checkpointing.

    Raises:
        ValueError: it cannot be built; the message says why.
    """
    holder = ConfigDict(model=copy.deepcopy(config))
    revert_sync_bn(holder)
    for part in dicts_in(holder.model):
        if "with_cp" in part:  # gradient checkpointing, which hides the graph
            part["with_cp"] = False
    try:
        with DefaultScope.overwrite_default_scope(scope), preserved_random_state():
            stock: Any = MODELS.build(holder.model)
    except (ImportError, KeyError, OSError) as error:
        raise ValueError(
            f"--backbone: the config's own backbone {type_name(config)} cannot be built: {error}"
        ) from error
    for module in stock.modules():
        if getattr(module, "eps", None) == 0:  # some stock configs say so, and PyTorch refuses to run such norms
            module.eps = 1e-5
    return stock


def _changed(values: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """The values without those that are a default."""
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def _grow(numbers: list[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _names_read_of_a_backbone(model: ConfigDict, scope: str) -> set[str]:
    """Names that the source code of the detector reads as ``self.backbone.NAME``."""
    with MODELS.switch_scope_and_registry(scope) as registry:
        detector = registry.get(model.type) if isinstance(model.type, str) else model.type
    sources = [
        inspect.getsource(c) for c in getattr(detector, "__mro__", ()) if c.__module__.startswith(("mmdet", "mmseg"))
    ]
    return set(re.findall(r"self\.backbone\.(\w+)", "\n".join(sources)))


def _describe(stock: Any, image: Sequence[int]) -> StockInterface:
    """Run the backbone in training and in evaluation, and put its outputs into words."""
    device = next(stock.parameters()).device
    x = torch.zeros(2, *image, device=device, requires_grad=True) * 1  # no leaf: stock layers work in place
    trained, convolutions = _train(stock, x)
    stock.eval()
    evaluated = stock(x)
    rounded_down = _rounded_down(stock, x, evaluated) if tuple(image[1:]) == (SIDE, SIDE) else set()
    found = [y for y in tensors_in(trained) if y is not x]
    levels: list[Level] = []
    for y in found:
        if y.ndim not in KINDS:
            raise ValueError(f"--backbone: {type(stock).__name__} gives a shape that no adapter has: {tuple(y.shape)}.")
        stride = _stride(y, x) if y.ndim == 4 else max((level.stride for level in levels), default=32)
        levels.append(
            Level(
                y.shape[1],
                stride,
                _depth(y, stride, convolutions),
                "floor" if _key(y) in rounded_down else "ceil",
                KINDS[y.ndim],
            )
        )
    outputs = _structure(trained, x, list(range(len(found))))
    order = list(range(len(found)))
    if [_key(y) for y in tensors_in(evaluated)] != [_key(y) for y in tensors_in(trained)]:
        order = _alike([y for y in tensors_in(evaluated) if y is not x], found)
    copies, eval_copies = (tensors_in(ys)[-1].shape[0] // 2 for ys in (trained, evaluated))
    return StockInterface(levels, outputs, _structure(evaluated, x, order), copies, eval_copies)


def _train(stock: Any, x: Tensor) -> tuple[Any, list[tuple[Tensor, int]]]:
    """Outputs in training mode, and the outputs of all convolutions with their strides, times dilations."""
    convolutions: list[tuple[Tensor, int]] = []

    def note(module: Any, _: Any, y: Any) -> None:
        if isinstance(y, Tensor) and y.ndim == 4 and y.shape[-1] > 1:  # one pixel is channel attention
            dilation = module.dilation
            convolutions.append((y, _stride(y, x) * (dilation if isinstance(dilation, int) else max(dilation))))

    layers = [m for m in stock.modules() if hasattr(m, "dilation") and hasattr(m, "weight")]
    stock.train()
    with hooked(layer.register_forward_hook(note) for layer in layers):
        return stock(x), convolutions


def _structure(outputs: Any, x: Tensor, order: list[int]) -> Structure:
    """Nested lists as the outputs are nested, with the next number of ``order`` for each tensor but the image."""
    numbers = iter(order)

    def numbered(y: Any) -> Structure:
        if isinstance(y, Tensor):
            return "image" if y is x else next(numbers)
        return [numbered(part) for part in y]

    return numbered(outputs)


def _alike(evaluated: list[Tensor], trained: list[Tensor]) -> list[int]:
    """Which output in training each output in evaluation is: the last of its shape, since auxiliary ones come first."""
    unmatched = list(range(len(trained)))
    order: list[int] = []
    for y in reversed(evaluated):
        alike = [i for i in unmatched if _key(trained[i]) == _key(y)]
        if not alike:
            raise ValueError(
                f"--backbone: the stock backbone gives {_key(y)} in evaluation alone, so nothing trains it."
            )
        unmatched.remove(alike[-1])
        order.insert(0, alike[-1])
    return order


def _key(y: Tensor) -> tuple[int, ...]:
    """Shape of an output without the batch, whose size may differ between training and evaluation."""
    return tuple(y.shape[1:])


def _stride(y: Tensor, x: Tensor) -> int:
    return round(x.shape[-1] / y.shape[-1])


def _depth(y: Tensor, stride: int, convolutions: list[tuple[Tensor, int]]) -> int:
    """The largest of an output's stride and the strides, times dilations, of the convolutions that it depends on.

    It depends on those which get a gradient from it. Only deeper ones are asked, and most outputs depend on none of them,
    which costs no backward pass.
    """
    deeper = [(tensor, depth) for tensor, depth in convolutions if depth > stride]
    if not deeper:
        return stride
    tensors, depths = zip(*deeper, strict=True)
    gradients = torch.autograd.grad(y.sum(), tensors, retain_graph=True, allow_unused=True)
    return max([stride, *(depth for depth, gradient in zip(depths, gradients, strict=True) if gradient is not None)])


def _rounded_down(stock: Any, x: Tensor, outputs: Any) -> set[tuple[int, ...]]:
    """Shapes of the outputs whose sizes are rounded down for an odd image; none if the backbone refuses such images."""
    try:
        odd = stock(x.new_zeros(1, x.shape[1], ODD_SIDE, ODD_SIDE))
    except (AssertionError, RuntimeError, ValueError):
        return set()
    pairs = zip(tensors_in(outputs), tensors_in(odd), strict=True)
    return {_key(y) for y, small in pairs if y.ndim == 4 and small.shape[-1] == ODD_SIDE // _stride(y, x) < ODD_SIDE}
