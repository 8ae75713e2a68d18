"""What fields owe to the weights: layers are randomised one after another, from the target down to the input.

The cascading randomisation of Adebayo et al. 2018 (arXiv:1810.03292). A field that stays the same is that of the
architecture. The entries of each parameter are shuffled, which keeps their distribution, so that a spiking network goes on
firing; BatchNorms get the statistics of the first eight inputs in every network, the whole one included.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...checks import positive_int, whole_number
from ...undisturbed import hooked
from ..numbers.number import columns
from ..numbers.similarity import overlap_steps, similarity, with_errors
from ..outputs.targets import match_layers, unwrapped
from .occlusion import check_field


def randomise_field(
    model: nn.Module,
    inputs: Tensor,
    layer: str,
    *,
    stages: int = 8,
    cells: int | tuple[int, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compare the field of a layer with those after more and more layers before it have been randomised.

    The work is done on a copy of the model.

    Args:
        model: any module that can be copied.
        inputs: images (N, C, H, W) or (T, N, C, H, W).
        layer: name of the layer.
        stages: how many networks are looked at: the layers with weights in so many steps of about equal size.
        cells: grid on which fields are compared, as in ``check_field``.
        seed: seed of the shuffling, and of projections.
        **options: others of ``check_field``, such as ``position`` or ``time_steps``.

    Returns:
        A dict for each network: ``randomised``, the number of layers with weights that are randomised; ``down_to``, the name
        of the lowest of them; and for each number of ``similarity`` with the field of the whole network, ``name`` and
        ``name_error`` (jackknife over inputs).

    Raises:
        TypeError, ValueError: bad arguments, no such layer, or one without weights before it.
    """
    model = unwrapped(model)
    for name in ("by", "without", "calibrate"):
        if name in options:
            raise ValueError(
                f"`{name}` is given; nothing is changed here, and all statistics are those of the inputs. Leave it out."
            )
    names = match_layers(model, layer)
    if len(names) != 1:
        raise ValueError(f"`layer` is {layer!r}, which fits {len(names)} layers; name one.")
    name = names[0]
    network = copy.deepcopy(model)
    options |= dict(by=None, without=None, calibrate=True, cells=cells, seed=seed)

    def fields() -> np.ndarray:
        maps = check_field(network, inputs, name, **options).maps
        if len(maps) != 1:
            raise ValueError(f"layer {name!r} gives {', '.join(maps)}; name a layer that gives one map in one call.")
        return next(iter(maps.values()))[:, 0]

    reference, order = _recorded(network, name, fields)
    if not order:
        raise ValueError(f"no module with weights runs before the end of layer {name!r}; name a later one.")
    modules = dict(network.named_modules())
    generator = torch.Generator().manual_seed(whole_number("seed", seed))
    stages = min(positive_int("stages", stages), len(order))
    ends = [len(order) * stage // stages for stage in range(stages + 1)]
    found: list[dict[str, Any]] = []
    for start, end in zip([0, *ends], ends, strict=False):
        for module in order[::-1][start:end]:
            _shuffle(modules[module], generator)
        maps = np.stack([reference, fields() if end else reference], 1)
        row: dict[str, Any] = dict(randomised=end, down_to=order[-end] if end else "")
        steps = (lambda pair: overlap_steps(*pair)) if end else (lambda pair: {})  # a field agrees with itself exactly
        found.append(row | columns(with_errors(maps, lambda pair: similarity(*pair), steps)))
    return found


def _recorded(model: nn.Module, target: str, run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What ``run`` returns, and the modules with weights of their own that it runs before the target ends, in order."""
    order: dict[str, None] = {}
    finished = False

    def note(name: str):
        def hook(module: nn.Module, arguments: Any) -> None:
            if not finished:
                order[name] = None

        return hook

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal finished
        finished = True

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    handles.append(model.get_submodule(target).register_forward_hook(end))
    with hooked(handles):
        return run(), list(order)


@torch.no_grad()
def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Put the entries of each of the module's own parameters in a random order."""
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
