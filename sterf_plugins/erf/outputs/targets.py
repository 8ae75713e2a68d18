"""Which layers to compute fields of: by name, by glob pattern, or the defaults of well-known kinds of models."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ...checks import check_module, entries

# What OpenMMLab's backbones call their stages, or their names.
_STAGES = ("res_layers", "stages", "layers", "cr_blocks")
_LISTS = ("stages", "layers", "layer", "blocks", "block")  # what Hugging Face's models call their stages or blocks


def default_layers(model: nn.Module) -> list[str]:
    """Names of the feature levels of our models, of timm models and of bare backbones; the backbone of a detector or segmentor.

    Of a model of Hugging Face, these are its stages, or its blocks if it has no stages.

    Raises:
        ValueError: no default is known; the message says how to name layers.
    """
    if isinstance(
        getattr(getattr(model, "config", None), "model_type", None), str
    ):  # a model of Hugging Face's transformers
        stages = _first_list(model)
        if stages:
            return stages
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        return ["backbone"]
    names = dict(model.named_modules())
    feature_layers = _feature_levels(model, names)
    if feature_layers:
        return feature_layers
    stages = _stages(model, names)
    if stages:
        return stages
    children = [name for name, _ in model.named_children()]
    if len(children) == 1:  # a model around another one, such as Hugging Face's around timm's
        try:
            return [f"{children[0]}.{name}" for name in default_layers(model.get_submodule(children[0]))]
        except ValueError:
            pass
    example = children[-1] if children else "layer4"
    example = _called(names, example)
    raise ValueError(
        f"`layers` is None, and {type(model).__name__} names no feature layers. Give module names or patterns, such "
        f"as layers=['{example}']; its children are {', '.join(children) or 'none'}."
    )


def _feature_levels(model: nn.Module, names: dict[str, nn.Module]) -> list[str]:
    """Names of the levels in a ``feature_info`` of timm, of an extractor made by ``features_only=True`` those that it returns."""
    info: Any = getattr(model, "feature_info", None)
    if info is None:
        return []
    levels = info.info if hasattr(info, "info") else info
    wanted = [levels[i] for i in getattr(info, "out_indices", range(len(levels)))]
    found = [_level(names, level["module"]) for level in wanted if level.get("module")]
    # Several maps may come from one module, and a stage may be a list, whose last entry gives its map.
    return list(dict.fromkeys(_called(names, name) for name in found if name)) or _first_list(model)


def _level(names: Iterable[str], module: str) -> str | None:
    """The name of a module that ``feature_info`` names, which may be one module deeper, in an extractor, or flattened by one."""
    inside = [name for name in names if name == module or name.partition(".")[2] == module]
    flat = module.replace(".", "_")
    return min(inside, key=len) if inside else flat if flat in names else None


def _stages(model: nn.Module, names: dict[str, nn.Module]) -> list[str]:
    """Names of the stages of a bare backbone, one of ours or of OpenMMLab, whose outputs ``out_indices`` chooses."""
    indices: Any = getattr(model, "out_indices", None)
    for attribute in _STAGES if isinstance(indices, (tuple, list)) else ():
        stages: Any = getattr(model, attribute, None)
        if isinstance(stages, nn.ModuleList):
            stages = [f"{attribute}.{i}" for i in range(len(stages))]
        if isinstance(stages, (tuple, list)) and set(stages) <= set(names) and max(indices) < len(stages):
            return [_called(names, stages[i]) for i in indices]
    return []


def _called(names: dict[str, nn.Module], name: str) -> str:
    """The name, or that of the last module in it where it is a list, which is never called itself."""
    module = names.get(name)
    while isinstance(module, nn.ModuleList) and len(module):
        name = f"{name}.{len(module) - 1}"
        module = names[name]
    return name


def _first_list(model: nn.Module) -> list[str]:
    """Names of the entries of a model's first list of stages or blocks, that of a text encoder or decoder left out."""
    names = dict(model.named_modules())
    for name, module in names.items():
        *around, last = name.split(".")
        if any("text" in part or "decoder" in part for part in around):
            continue
        if isinstance(module, nn.ModuleList) and last in _LISTS and len(module):
            # A list of blocks may be in a list of stages of another name.
            lists = [".".join(around[:n]) for n in range(1, len(around))]
            name = next((n for n in lists if isinstance(names[n], nn.ModuleList)), name)
            return [_called(names, f"{name}.{key}") for key, _ in names[name].named_children()]
    return []


def unwrapped(model: Any) -> Any:
    """The module inside of ``torch.compile`` and data-parallel wrappers, which put a name of theirs before those of layers."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else unwrapped(compiled)


def match_layers(model: nn.Module, patterns: str | Iterable[str] | None, target: str | None = "module") -> list[str]:
    """Names of the modules that fit the patterns, each once, in the order of ``named_modules``.

    Args:
        model: the model.
        patterns: exact names or globs (``*`` does not cross a dot, so ``stages.*`` are the stages alone); ``None`` for
            ``default_layers``.
        target: "block" for the blocks around these modules (see ``enclosing_blocks``) in their place.

    Raises:
        ValueError: a pattern matches nothing; the message lists near candidates.
        TypeError: the model is no module, or a pattern is no text.
    """
    check_module("model", model)
    names = default_layers(model) if patterns is None else _fitting(model, patterns)
    return enclosing_blocks(model, names) if target == "block" else names


def _fitting(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """Names of the modules that fit the patterns, see ``match_layers``."""
    patterns = [patterns] if isinstance(patterns, str) else list(entries("layers", patterns))
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`layers` holds {pattern!r} ({type(pattern).__name__}); give module names or patterns.")
    names = [name for name, _ in model.named_modules() if name]
    if not patterns:
        raise ValueError("`layers` is empty; give module names or patterns, or None for the model's stages.")
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if _matches(name, pattern)]
        if not matched:
            raise ValueError(f"layer pattern {pattern!r} matches no module; {_candidates(names, pattern)}")
        chosen.update(matched)
    return [name for name in names if name in chosen]


def enclosing_blocks(model: nn.Module, names: Iterable[str]) -> list[str]:
    """For each module, the innermost entry of a list of blocks (``Sequential``, ``ModuleList``) that holds or is it.

    Raises:
        ValueError: a module is in no such list.
    """
    modules = dict(model.named_modules())
    blocks: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            parent = modules[".".join(parts[: end - 1])]
            # A list of blocks holds composite modules; a Sequential of single layers is a block's inside.
            if isinstance(parent, (nn.Sequential, nn.ModuleList)) and any(modules[".".join(parts[:end])].children()):
                blocks[".".join(parts[:end])] = None
                break
        else:
            raise ValueError(f"layer {name!r} is in no list of blocks; use target='module' or name the block.")
    return list(blocks)


def stages_of(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Name of a layer such as ``backbone[0]`` -> index of the stage whose map it is, by the backbone's ``out_indices``.

    Args:
        model: the model.
        names: names of outputs; those of modules with one output, without stages, or with other outputs beside those of
            their stages are left out.
    """
    keys: dict[str, dict[int, list[str]]] = {}
    for name in names:
        found = re.match(r"([^\[#@]+)\[(\d+)\](?!\[)", name)
        if found:
            keys.setdefault(found[1], {}).setdefault(int(found[2]), []).append(name)
    stages: dict[str, int] = {}
    for name, outputs in keys.items():
        module: Any = model.get_submodule(name)
        indices = getattr(module, "out_indices", None)
        staged = any(hasattr(module, attribute) for attribute in ("stages", "num_stages", "out_strides"))
        if staged and isinstance(indices, (tuple, list)) and sorted(outputs) == list(range(len(indices))):
            stages |= {layer: indices[key] for key, layers in outputs.items() for layer in layers if indices[key] >= 0}
    return stages


def ancestors(model: nn.Module, name: str) -> list[nn.Module]:
    """The module and those around it, from the inside outwards, the model itself left out."""
    modules = dict(model.named_modules())
    parts = name.split(".") if name else []
    return [modules[".".join(parts[:end])] for end in range(len(parts), 0, -1)]


def _matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern, part by part between the dots."""
    parts, pattern_parts = name.split("."), pattern.split(".")
    return len(parts) == len(pattern_parts) and all(map(fnmatchcase, parts, pattern_parts))


def _candidates(names: Sequence[str], pattern: str, limit: int = 12) -> str:
    """Names near a pattern that matches nothing, as the end of an error message."""
    prefix = ""
    for part in pattern.split("."):  # the longest beginning that exists
        longer = f"{prefix}.{part}".lstrip(".")
        if longer not in names:
            break
        prefix = longer
    inside = [n for n in names if n.startswith(f"{prefix}." if prefix else "") and n.count(".") <= pattern.count(".")]
    if not inside:
        return f"{prefix!r} has no modules in it."
    return f"modules{f' in {prefix!r}' if prefix else ''} are {', '.join(inside[:limit])}{', ...' if len(inside) > limit else ''}."
