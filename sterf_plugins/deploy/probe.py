"""One forward pass that tells in which order the layers of a model run, and on what."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..firing import input_of
from ..undisturbed import hooked, reset_states, tensors_in, uncompiled

Example = Tensor | tuple[Tensor, ...]  # the input of a model, or its positional arguments
Forward = Callable[[nn.Module, Example], object]  # runs a model on an example


@dataclass
class Call:
    """One call of a module. The tensors are kept, so that no memory address is used twice within one forward pass."""

    name: str
    module: Any  # of one of the types that were asked for
    input: Tensor
    output: Tensor
    by_name: bool = False  # whether the input came as a keyword argument, which hooks on inputs do not see


def example_for(model: nn.Module, example: Example | None) -> Example:
    """The given example in the model's precision, or a random image for one of our backbones.

    Raises:
        ValueError: the model does not say how many channels it takes, or its weights have no values.
        TypeError: the example is no tensor, and no tuple of tensors.
    """
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            f"`model` is a {type(model).__name__} on the meta device, whose weights have no values; build it on another device, "
            f"and load its checkpoint."
        )
    if example is not None:
        inputs = example if isinstance(example, tuple) else (example,)
        if not all(isinstance(x, Tensor) for x in inputs):
            raise TypeError(
                f"`example` is a {type(example).__name__}; it must be a tensor, or a tuple that holds nothing but tensors."
            )
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
        return inputs if isinstance(example, tuple) else inputs[0]
    channels = getattr(model, "in_chans", None)
    if not isinstance(channels, int):
        raise ValueError(f"give `example`, an input of the model: {type(model).__name__} does not tell its channels.")
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, 64, 64, generator=generator).to(like.device, like.dtype)


def output_of(model: nn.Module, example: Example) -> object:
    """The model's output."""
    return model(*example) if isinstance(example, tuple) else model(example)


def run(model: nn.Module, example: Example, forward: Forward = output_of) -> object:
    """What ``forward`` gives, the model's output by default, without gradients; its neurons start from rest, and are left so."""
    reset_states(model)
    with torch.no_grad(), uncompiled():
        output = forward(model, example)
    reset_states(model)
    return output


def calls_of(
    model: nn.Module, example: Example, kinds: tuple[type[nn.Module], ...], forward: Forward = output_of
) -> list[Call]:
    """Run the model once without gradients; return the calls of all modules of these types, in order of execution."""
    calls: list[Call] = []

    def record(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple, options: dict, output: Tensor) -> None:
            x = input_of(arguments, options)
            if x is not None:
                calls.append(Call(name, module, x, output, by_name=not arguments))

        return hook

    watched = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    with hooked(module.register_forward_hook(record(name), with_kwargs=True) for name, module in watched):
        run(model, example, forward)
    return calls


def called_once(calls: list[Call]) -> list[Call]:
    """Calls of the modules that run once in a forward pass, in order."""
    counts = Counter(call.name for call in calls)
    return [call for call in calls if counts[call.name] == 1]


def float_tensors(output: object) -> list[Tensor]:
    """The floating-point tensors of a model's output, in order."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def largest_error(ours: object, theirs: object) -> float:
    """Largest difference of two outputs, each tensor's over its own largest absolute value; infinite for other shapes.

    Raises:
        ValueError: the outputs have not the same number of tensors, or none.
    """
    pairs = [(a.detach(), b.detach()) for a, b in zip(float_tensors(ours), float_tensors(theirs), strict=True)]
    if not pairs:
        raise ValueError(f"an output of type {type(theirs).__name__} holds no floating-point tensor to compare.")
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return torch.stack([(a - b).abs().max() / b.abs().max().clamp_min(1e-12) for a, b in pairs]).max().item()


def compared_values(output: object, other: object) -> str:
    """What the outputs of two different inputs say about a comparison of outputs: the size of the numbers in it.

    Raises:
        ValueError: all outputs are constants, equal everywhere or the same for both inputs; any model with the same
            constants would pass.
    """
    tensors = [tensor.detach() for tensor in float_tensors(output)]
    constant = [
        torch.equal(a, b) or (a.numel() > 1 and bool((a == a.flatten()[0]).all()))
        for a, b in zip(tensors, float_tensors(other), strict=True)
    ]
    if all(constant):
        values = ", ".join(f"{float(t.flatten()[0]):.3g}, …" for t in tensors)
        raise ValueError(
            f"the outputs are constants ({values}) that do not depend on the input, so that a comparison of them would "
            f"prove nothing. Give the checkpoint of a trained model, or a model that returns feature maps (num_classes=0)."
        )
    silent = f"; {sum(constant)} of {len(constant)} outputs are constants, which prove nothing" if any(constant) else ""
    return f"of values up to {max(float(t.abs().max()) for t in tensors):.3g}{silent}"
