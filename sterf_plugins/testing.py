"""Contract checks for plugin authors: can my mixer, stem or backbone be used here?

Each check passes silently, or raises an ``AssertionError`` that says what is wrong and how to mend it::

    from sterf_plugins.testing import check_mixer
    check_mixer(MyMixer)
"""

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from . import checks, plugins
from .backbones import SDTV3
from .checkpoints import convert_state_dict, read_checkpoint
from .erf import ERFResult, difference
from .erf.calibrate import calibrate
from .erf.compare import distances
from .erf.rules import Rule

__all__ = ["assert_same_field", "check_backbone", "check_mixer", "check_stem"]
FIELD_NUMBERS = ("area_*", "rectangle_*", "r50", "r90", "rms_radius", "*_extent", "centre_mass", "mean_lag")


def check_mixer(mixer: str | Callable, dims: Sequence[int] = (8, 12), ratio: int = 4, **options) -> None:
    """Check a channel mixer against the protocol ``mixer(dim, ratio, **options)``.

    The mixer keeps the shape of even, odd and non-square maps, keeps no state and does not change its input. Each
    parameter gets a gradient, and the input one that is not zero in eval mode. A single sample has the gradient that it has in a
    batch. A deep copy that loads the state dict gives the same output, and an SDT-V3 with this mixer the same features
    as one whose checkpoint file it has loaded.

    Args:
        mixer: a factory, or a name in the group ``sterf_plugins.mixers``.
        dims: channel counts to try.
        ratio: expansion to try.
        **options: further arguments of the mixer.

    Raises:
        AssertionError: the contract is broken; the message says where and how to mend it.
    """
    factory = plugins.resolve("mixers", {"type": mixer, **options})
    for dim in dims:
        module = _build(partial(factory, dim, ratio), f"mixer({dim}, {ratio})")
        for size in ((8, 8), (7, 5)):
            _check_module(module, torch.randn(3, dim, *size), (3, dim, *size), "a mixer keeps the shape")
    arch = dict(embed_dims=(2 * dims[0],) * 4, num_heads=1)
    _check_saved(partial(SDTV3, arch, {"type": mixer, **options}, ratio), "mixer")


def check_stem(stem: str | Callable, in_chans: int = 3, embed_dim: int = 16, stride: int = 2, **options) -> None:
    """Check a stem against the protocol ``stem(in_chans, embed_dim, stride, **options)``.

    The stem has an attribute ``stride`` and gives maps of ceil(H / stride) by ceil(W / stride), which depend on every
    channel of the image; it is built for these channels, and for one more of both. The rest is as in ``check_mixer``, the
    checkpoint of an SDT-V3 for a stride of 2, which is the stride of its stem.

    Args:
        stem: a factory, or a name in the group ``sterf_plugins.stems``.
        in_chans: image channels to try.
        embed_dim: output channels to try.
        stride: stride to try.
        **options: further arguments of the stem.

    Raises:
        AssertionError: the contract is broken; the message says where and how to mend it.
    """
    factory = plugins.resolve("stems", {"type": stem, **options})
    for more in (0, 1):
        _check_stem(factory, in_chans + more, embed_dim + more, stride)
    if stride == 2:
        arch = dict(embed_dims=(2 * embed_dim,) * 4, num_heads=1)
        _check_saved(partial(SDTV3, arch, stem={"type": stem, **options}, in_chans=in_chans), "stem")


def _check_stem(factory: Callable, in_chans: int, embed_dim: int, stride: int) -> None:
    call = f"stem({in_chans}, {embed_dim}, {stride})"
    module = _build(lambda: factory(in_chans, embed_dim, stride), call)
    assert getattr(module, "stride", None) == stride, (
        f"the stem's .stride is {getattr(module, 'stride', None)!r}; set self.stride to the stride it was built with "
        f"({stride}), so that necks can be told"
    )
    for h, w in ((32, 32), (33, 20)):
        expected = (2, embed_dim, -(-h // stride), -(-w // stride))
        x = torch.randn(2, in_chans, h, w)
        try:
            module(x)
        except RuntimeError as error:
            raise AssertionError(f"{call} does not run on images {tuple(x.shape)}: {error}") from error
        _check_module(module, x, expected, "a stem gives ceil(size / stride)")
    x.requires_grad_()
    (grad,) = torch.autograd.grad(_total(module(x)), x)
    without = [channel for channel in range(in_chans) if not grad[:, channel].any()]
    assert not without, f"{call} does not look at channels {without} of the image; its first layer takes all {in_chans}"


def check_backbone(backbone: Callable[[], nn.Module], in_chans: int = 3, size: tuple[int, int] = (64, 96)) -> None:
    """Check a backbone, which gives a tuple of maps (B, C_i, H_i, W_i) for images (B, C, H, W).

    The maps agree with the attributes ``out_channels`` and ``out_strides``; the input, state and gradients are checked as
    in ``check_mixer``.

    Args:
        backbone: a function without arguments that builds the backbone.
        in_chans: image channels to try.
        size: image size (H, W) to try.

    Raises:
        AssertionError: the contract is broken; the message says where and how to mend it.
    """
    module: Any = _build(backbone, "backbone()")
    x = torch.randn(2, in_chans, *size)
    calibrate(module, x)
    before = x.clone()
    with torch.no_grad():
        features = module(x)
    _check_input(x, before)
    assert isinstance(features, (tuple, list)), f"forward gave {type(features).__name__}; return a tuple of maps"
    channels, strides = module.out_channels, module.out_strides
    assert len(features) == len(channels) == len(strides), "out_channels and out_strides need one entry per feature"
    for i, (y, c, s) in enumerate(zip(features, channels, strides, strict=True)):
        expected = (2, c, -(-size[0] // s), -(-size[1] // s))
        assert tuple(y.shape) == expected, f"feature {i} has shape {tuple(y.shape)}, its description says {expected}"
    _check_precision(x, features)
    with torch.no_grad():
        _check_stateless(features, module(x))
    _check_gradients(module, x, "backbone")


def _build(build: Callable[[], nn.Module], call: str) -> nn.Module:
    try:
        module = build()
    except TypeError as error:
        raise AssertionError(
            f"{call} failed: {error}. Take these arguments by position, options by keyword."
        ) from error
    assert isinstance(module, nn.Module), f"{call} gave {type(module).__name__}; return an nn.Module"
    return module


def _check_module(module: nn.Module, x: Tensor, expected: tuple[int, ...], rule: str) -> None:
    torch.manual_seed(0)
    module.train()
    before = x.clone()
    y = module(x)
    assert isinstance(y, Tensor), f"forward gave {type(y).__name__}; return one tensor"
    assert tuple(y.shape) == expected, f"input {tuple(x.shape)} gave {tuple(y.shape)}, expected {expected}: {rule}"
    _check_precision(x, [y])
    _check_input(x, before)
    calibrate(module, x)  # with the initial statistics a spiking module is silent, and all its outputs are alike
    with torch.no_grad():
        first = module(x)
        _check_input(x, before)
        _check_stateless([first], [module(x)])
    clone = copy.deepcopy(module)
    clone.load_state_dict(module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(clone(x), first), "a deepcopy with the same state_dict gives another output"
    _check_gradients(module, x, "module")


def _check_precision(x: Tensor, outputs: Sequence[Tensor]) -> None:
    for y in outputs:
        assert y.dtype == x.dtype, f"an input of {x.dtype} gave an output of {y.dtype}; keep the precision of the input"


def _check_input(x: Tensor, before: Tensor) -> None:
    assert torch.equal(x, before), "forward changed its input in place; others, such as a residual, need it as it was"


def _check_stateless(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    assert all(y.isfinite().all() for y in first), "forward gave NaN or infinite numbers in eval mode"
    assert all(map(torch.equal, first, second)), (
        "two forward passes on one input differ in eval mode: state survives `forward`. Reset neurons inside, for "
        "instance by sterf_plugins.layers.StatelessNode"
    )


def _check_saved(build: Callable[[], SDTV3], part: str) -> None:
    """Check that what one backbone writes into a checkpoint file is all that another one needs to be the same."""
    torch.manual_seed(0)
    saved, loaded = build(), build()
    images = torch.randn(2, saved.in_chans, 64, 64) * torch.tensor([0.5, 4]).view(2, 1, 1, 1)
    calibrate(saved, images)
    with torch.no_grad():
        with TemporaryDirectory() as folder:
            path = Path(folder, "checkpoint.pth")
            torch.save(dict(state_dict=saved.state_dict()), path)
            try:
                loaded.load_state_dict(convert_state_dict(read_checkpoint(path)), strict=True)
            except (ValueError, RuntimeError) as error:
                raise AssertionError(f"a backbone with this {part} cannot load what it has saved: {error}") from error
        pairs = zip(saved.eval()(images), loaded.eval()(images), strict=True)
    assert all(torch.equal(y, other) for y, other in pairs), (
        f"a backbone with this {part} that loads a checkpoint gives other features than the one that saved it: register "
        f"each tensor that `forward` needs as a parameter or as a persistent buffer"
    )


def _check_gradients(module: nn.Module, x: Tensor, what: str) -> None:
    module.train().zero_grad(set_to_none=True)
    total = _total(module(x))
    assert total.requires_grad, f"the output of the {what} has no gradient: it has no parameters, or `forward` detaches"
    total.backward()
    silent = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent, f"these parameters of the {what} got no gradient: {silent}; use them in forward, or drop them"
    module.eval()
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(_total(module(leaf)), leaf, allow_unused=True)
    assert grad is not None and grad.any(), (
        "the input got no gradient in eval mode, or one of zeros: the output does not depend on it, or what fires or rounds "
        "has no surrogate gradient there (ERF needs it), as sterf_plugins.layers.IntegerSpike has"
    )
    exact = copy.deepcopy(module).double()  # in float32 a spike may flip by rounding
    both, alone = x.double().requires_grad_(), x[:1].double().requires_grad_()
    (grad,), (single,) = (torch.autograd.grad(_total(exact(batch)), batch) for batch in (both, alone))
    assert torch.allclose(single, grad[:1], atol=1e-5, rtol=1e-4), (
        "one sample alone has another gradient than in a batch. PyTorch's CPU BatchNorm is wrong at batch 1 for some "
        "memory orders: use sterf_plugins.layers.BatchNorm2d"
    )


def _total(y: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """The sum of squares: one number to differentiate."""
    return y.square().sum() if isinstance(y, Tensor) else torch.stack([t.square().sum() for t in y]).sum()


def assert_same_field(
    a: ERFResult | str | Path,
    b: ERFResult | str | Path,
    layers: str | Sequence[str] = "*",
    numbers: str | Sequence[str] = FIELD_NUMBERS,
    *,
    k: float = 3.0,
    rtol: float = 0.01,
) -> None:
    """Check that two results have the same effective receptive fields, as a test of a model, a port or a checkpoint.

    A number may differ by ``k`` standard errors of the difference, or by a share of ``rtol``, whichever is more. For the
    same inputs in the same order that error is far smaller than those of the two numbers. Unless ``numbers`` are given, the
    fields themselves may differ as much, pixel by pixel, so that a mirrored one is another. A layer that one of them lacks is
    a difference.

    Args:
        a: a result, or the file that ``ERFResult.save`` or ``tools/erf.py`` wrote.
        b: the other one.
        layers: names or glob patterns of the layers to compare.
        numbers: names or glob patterns of the numbers to compare.
        k: standard errors that are allowed.
        rtol: share of the number in ``a`` that is allowed.

    Raises:
        AssertionError: a number differs by more, or a layer has a field in one result alone; the message says which.
        TypeError: ``a`` or ``b`` is neither a result nor a path.
        ValueError: the results cannot be compared, a layer or a number is one of neither, or ``k`` or ``rtol`` is negative.
    """
    for name, value in (("k", k), ("rtol", rtol)):
        checks.number(name, value, lambda v: v >= 0, "a number >= 0")
    for label, given in (("a", a), ("b", b)):
        if not isinstance(given, (ERFResult, str, os.PathLike)):
            raise TypeError(
                f"`{label}` is {given!r} ({type(given).__name__}); give an ERFResult, or the path of its file."
            )
    first, second = (x if isinstance(x, ERFResult) else ERFResult.load(x) for x in (a, b))
    comparison = difference(first, second)
    layers, numbers = (
        (x,) if isinstance(x, str) else checks.entries(name, x)
        for name, x in (("layers", layers), ("numbers", numbers))
    )
    chosen = [(layer, name) for layer in layers for name in numbers if comparison.matching(layer, name)]
    alone = [line for layer in layers for line in comparison.alone(layer)]
    for layer in layers:
        if not comparison.matching(layer, "*") and not comparison.alone(layer):
            raise ValueError(f"no layer is {layer}; there are {comparison.known()}.")
    for name in numbers if numbers != FIELD_NUMBERS else ():  # of which not every field has all
        if not comparison.matching("*", name):
            raise ValueError(f"no number is {name}; there are {comparison.known()}.")
    if not chosen and not alone:
        raise ValueError(
            f"no layer of {', '.join(layers)} has a number of {', '.join(numbers)}; there are {comparison.known()}."
        )
    large = [d for layer, name in chosen for d in Rule(layer, name, 100 * rtol, "%").broken_by(comparison)]
    wrong = list(dict.fromkeys(alone)) + [
        f"{d.layer}: {d.name} is {d.a} in the first and {d.b} in the second; they differ by {d.change}"
        for d in dict.fromkeys(large)
        if not abs(d.change.value) <= k * d.change.error
    ]
    compared = dict.fromkeys(d.layer for layer in layers for d in comparison.matching(layer, "*"))
    for layer in compared if numbers == FIELD_NUMBERS else ():
        for kind, distance in distances(first, second, layer).items():
            if distance.value > rtol and not distance.value <= k * distance.error:
                wrong.append(
                    f"{layer}: its {kind} fields, each over its sum, differ by a share of {distance} of their norm"
                )
    if wrong:
        head = f"the fields differ by more than {k:g} standard errors and {100 * rtol:g} %:"
        raise AssertionError("\n".join([head, *wrong]))
