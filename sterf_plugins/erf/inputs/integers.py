"""Differentiate behind the place where a model casts its integer inputs to floating-point numbers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CASTS = (Tensor.to, Tensor.type, Tensor.long, Tensor.int, Tensor.short, Tensor.byte, Tensor.cpu, Tensor.cuda)


class FollowedCasts(TorchFunctionMode):
    """Inside, what a model computes of integer tensors before it casts them is computed of floats as well.

    The cast then gives the floats, which have a gradient. Operations that take no integers, such as convolutions, get the
    floats, too.

    Args:
        pairs: integer tensors, and for each the floats of the same values that stand for it.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]):
        super().__init__()
        # The tensors are kept, too, so that no other tensor gets the id of one of them.
        self._floats = {id(integers): (integers, floats) for integers, floats in pairs}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self._known((args, kwargs)):
            return function(*args, **kwargs)
        floats = self._replaced((args, kwargs))
        try:
            result = function(*args, **kwargs)
        except RuntimeError:  # it takes no integers
            return function(*floats[0], **floats[1])
        tensors = [r for r in _flat(result) if isinstance(r, Tensor) and r.dtype != torch.bool]
        if not tensors:
            return result
        found = self._checked(function, args, kwargs, tensors)
        if tensors[0].is_floating_point():
            return found
        for exact, value in zip(tensors, _flat(found), strict=True):
            self._floats[id(exact)] = (exact, value)
        return result

    def _checked(self, function: Callable, args: tuple, kwargs: dict, exact: list[Tensor]) -> Any:
        """What the function gives for the floats, if it is linear, as all is that only moves numbers or casts them.

        Raises:
            ValueError: it is not, or it takes no floats.
        """
        name = getattr(function, "__name__", str(function))
        integers = not exact[0].is_floating_point()
        if integers and function in _CASTS:
            return self._replaced(args[0])
        half, full = self._replaced((args, kwargs), 0.5), self._replaced((args, kwargs))
        try:
            halves = _flat(function(*half[0], **half[1])) if integers else []
            found = function(*full[0], **full[1])
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the model uses integers of `inputs` in {name}, through which no gradient leads; give floating-point images."
            ) from error
        same = all(_equal(e.detach(), f.detach()) for e, f in zip(exact, _flat(found), strict=True))
        if not same or not all(
            torch.equal(2 * h.detach(), f.detach()) for h, f in zip(halves, _flat(found), strict=False)
        ):
            raise ValueError(
                f"the model computes with integers of `inputs` in {name}, which has another result or no gradient for floats; "
                f"give floating-point images."
            )
        return found

    def _known(self, value: Any) -> bool:
        return any(id(v) in self._floats for v in _flat(value))

    def _replaced(self, value: Any, factor: float | None = None) -> Any:
        """The value with floats in place of the integers that they stand for, or multiples of them."""
        if isinstance(value, dict):
            return {key: self._replaced(v, factor) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._replaced(v, factor) for v in value)
        if id(value) not in self._floats:
            return value
        floats = self._floats[id(value)][1]
        return floats if factor is None else floats.detach() * factor


def _equal(exact: Tensor, found: Tensor) -> bool:
    """Whether what comes of integers is what comes of floats, up to the rounding of the type that the model makes of integers."""
    if exact.is_floating_point():
        return torch.equal(exact, found.to(exact.dtype))
    return torch.equal(exact.to(found.dtype), found)


def followed(forward: Callable[[Any], Any], pairs: list[tuple[Tensor, Tensor]]) -> Callable[[Any], Any]:
    """The forward function, with the casts of integer inputs followed; see ``FollowedCasts``."""

    def run(x: Any) -> Any:
        with FollowedCasts(pairs):
            return forward(x)

    return run if pairs else forward


def _flat(value: Any) -> list[Any]:
    """What is in lists, tuples and dicts."""
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in _flat(v)]
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in _flat(v)]
    return [value]
