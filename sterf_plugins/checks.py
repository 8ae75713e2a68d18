"""Argument checks whose messages name the argument, the value, what is allowed and the fix."""

import importlib.util
import math
import numbers
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

EXTRAS_HINT = 'pip install "sterf-plugins[{extra}]"'


def require(module: str, extra: str) -> None:
    """Raise an ``ImportError`` that names the extra to install, unless ``module`` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"this needs the package {module!r}: {EXTRAS_HINT.format(extra=extra)}")


def one_of(name: str, value: object, allowed: Iterable[object], hint: str = "") -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``; ``hint`` is added to the message.

    ``True`` is not the number 1, and neither is 1.0, which are equal in Python.
    """
    allowed = tuple(allowed)
    if not any(value == a and all(isinstance(value, t) == isinstance(a, t) for t in (bool, float)) for a in allowed):
        choices = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"`{name}` is {value!r}; allowed: {choices}.{' ' + hint if hint else ''}")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, such as 2 or an array or tensor of no axes; ``True``, ``False``, 2.0 and [2] are none."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    # All arrays and tensors have `__index__`, which many of them refuse when it is called.
    return (
        hasattr(value, "__index__") and not getattr(value, "ndim", 0) and "int" in str(getattr(value, "dtype", "int"))
    )


def whole_number(name: str, value: object, allowed: str = "an int") -> int:
    """Return ``value`` as an int; ``name`` is what the message calls it, ``allowed`` what it allows.

    Raises:
        TypeError: it is not a whole number.
    """
    if not is_whole(value):
        raise TypeError(f"`{name}` is {value!r} ({type(value).__name__}); it must be {allowed}.")
    return value if isinstance(value, int) else value.__index__()  # which PyTorch 2.6 cannot compile


def positive_int(name: str, value: object, allowed: str = "an int >= 1") -> int:
    """Return ``value`` as an int of at least 1; ``name`` is what the messages call it, ``allowed`` what they allow.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is below 1.
    """
    number = whole_number(name, value, allowed)
    if number < 1:
        raise ValueError(f"`{name}` is {value!r}; it must be {allowed}.")
    return number


def size_pair(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width), each at least 1, of two whole numbers, or of one for both; ``name`` is as above.

    Raises:
        TypeError: there is something else than whole numbers.
        ValueError: a number is below 1, or there are not two.
    """
    numbers = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value, value)
    if len(numbers) != 2:
        raise ValueError(f"`{name}` is {value!r}; it must be two numbers, (height, width), or one for both.")
    return positive_int(name, numbers[0]), positive_int(name, numbers[1])


def as_path(name: str, value: Any) -> Path:
    """Return ``value``, a text or another path, as a path; ``name`` is what the message calls it.

    Raises:
        TypeError: it is something else, such as a number or an open file.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"`{name}` is {value!r} ({type(value).__name__}); it must be a path, as a text or a pathlib.Path."
        )
    return Path(value)


def _is_tensor(x: Any) -> bool:
    """Whether this is a tensor, without importing PyTorch; its compiler in version 2.6 sees values of a tensor, no methods."""
    return hasattr(x, "requires_grad")


def check_floating(name: str, x: Any) -> None:
    """Raise ``TypeError`` unless a tensor is of floating point; of whole numbers or bools a network computes nonsense."""
    if not _is_tensor(x):
        raise TypeError(f"`{name}` is a {type(x).__name__}; it must be a floating-point tensor.")
    if not x.is_floating_point():
        raise TypeError(f"`{name}` has dtype {x.dtype}; it must be a floating-point tensor (use {name}.float()).")


def check_images(x: Any, in_chans: int, or_frames: bool = False) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless a backbone's input are images (B, in_chans, H, W) of floating point.

    With ``or_frames`` it may also be event frames (T, B, in_chans, H, W).
    """
    check_floating("x", x)
    if x.ndim not in ((4, 5) if or_frames else (4,)) or x.shape[-3] != in_chans:
        images = f"(B, {in_chans}, H, W)"
        taken = f"images {images} or event frames (T, B, {in_chans}, H, W)" if or_frames else images
        raise ValueError(
            f"input has shape {tuple(x.shape)}; this model takes {taken}. The number of image channels is `in_chans`; in a "
            f"config of mmdet or mmseg it is `in_channels`."
        )


def check_axes(name: str, x: Any, axes: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``x`` is a tensor with so many axes; they are named as in "(B, C, H, W)"."""
    if not _is_tensor(x):
        raise TypeError(f"`{name}` is a {type(x).__name__}; it must be a tensor {axes}.")
    if x.ndim != axes.count(",") + 1:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}; it must be {axes}.")


def check_steps(name: str, x: Any) -> None:
    """Raise ``ValueError`` if a sequence (T, ...), whose first axis is time, has no time step."""
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}: T is 0; give at least one time step.")


def check_module(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a PyTorch module, as every model is."""
    if not hasattr(value, "named_modules"):
        hint = f", such as timm.create_model({value!r})" if isinstance(value, str) else ""
        raise TypeError(f"`{name}` is {value!r} ({type(value).__name__}); it must be an nn.Module{hint}.")


def number(name: str, value: Any, fits: Callable[[float], bool], allowed: str) -> float:
    """Return ``value`` as a float; ``name`` is what the messages call it, ``allowed`` what they allow.

    Args:
        name: as above.
        value: as above.
        fits: whether a number is one of those that are allowed. NaN never is.
        allowed: as above.

    Raises:
        TypeError: it is not a number.
        ValueError: it does not fit.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` is {value!r} ({type(value).__name__}); it must be {allowed}.")
    found = float(value)
    if math.isnan(found) or not fits(found):
        raise ValueError(f"`{name}` is {value!r}; it must be {allowed}.")
    return found


def number_above(name: str, value: object, least: float) -> float:
    """Return ``value`` as a finite float above ``least``; ``name`` is what the messages call it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite, or not above ``least``.
    """
    return number(name, value, lambda v: least < v < math.inf, f"a finite number > {least}")


def finite_number(name: str, value: object) -> float:
    """Return ``value`` as a float that is neither infinite nor NaN; ``name`` is what the messages call it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is infinite or NaN.
    """
    return number(name, value, math.isfinite, "a finite number")


def fraction(name: str, value: float) -> float:
    """Return ``value`` as a float in [0, 1); ``name`` is what the messages call it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is outside [0, 1).
    """
    return number(name, value, lambda share: 0 <= share < 1, "a number in [0, 1)")


def entries(name: str, value: Any) -> tuple:
    """Return ``value``, a list, tuple, array or tensor, as a tuple; ``name`` is what the message calls it.

    Raises:
        TypeError: it is something else, such as a single number.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # numbers of Python instead of NumPy's or PyTorch's
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"`{name}` is {value!r} ({type(value).__name__}); it must be a list or tuple, such as [{value!r}]."
        )
    return tuple(value)


def distinct(name: str, values: Sequence[Any]) -> None:
    """Raise ``ValueError`` for a list that has an entry twice, of which the second would add nothing new."""
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ValueError(f"`{name}` has {twice!r} twice: {tuple(values)}; give each entry once.")


def flag(name: str, value: object) -> bool:
    """Return ``value`` if it is ``True`` or ``False``; other values, such as the text "no", would count as true.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` is {value!r} ({type(value).__name__}); it must be True or False.")
    return value


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``dim`` channels can be divided evenly among the heads."""
    if positive_int("dim", dim) % positive_int("num_heads", num_heads):
        raise ValueError(f"`dim` (={dim}) must be divisible by `num_heads` (={num_heads}).")


def image_channels(model: Any, kinds: type | tuple[type, ...] = object) -> int | None:
    """Channels of the images that a model takes: those of its first module of some kinds that tells; ``None`` if none does.

    YOLOX's first layer makes channels of each four pixels, so that the convolution behind it has four times those of the image.
    """
    pixels = 1
    for module in model.modules():
        pixels = 4 if type(module).__name__ == "Focus" else pixels
        channels = getattr(module, "in_channels", None)
        if isinstance(module, kinds) and isinstance(channels, int):
            return channels // pixels
    return None


def begins_with_volumes(model: Any) -> bool:
    """Whether a model's first convolution is one of volumes or videos, so that inputs of five axes may be such."""
    from torch.nn import Conv1d, Conv2d, Conv3d

    return isinstance(next((m for m in model.modules() if isinstance(m, (Conv1d, Conv2d, Conv3d))), None), Conv3d)


def has_statistics(module: object) -> bool:
    """Whether a module is a norm that can keep running statistics, whatever library it comes from."""
    return hasattr(module, "running_mean") and hasattr(module, "num_batches_tracked")
