"""timm's model contract on top of a ``StagedBackbone``."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from ..checkpoints import convert_state_dict
from ..checkpoints.renaming import listing
from ..checkpoints.sdt_v3 import has_our_names
from ..checks import entries, is_whole, one_of
from ..functional.torch_kernels import default_device

if TYPE_CHECKING:  # what the mixin stands in front of
    from ..backbones.base import StagedBackbone as _Backbone
else:
    _Backbone = object


class TimmContract(_Backbone):
    """Mixin for a ``StagedBackbone``: what timm expects of its models.

    Args:
        num_classes: width of the classifier; 0 gives pooled features (B, C).
        global_pool: one of ``POOLS``; "" for the last feature map itself (B, C, H, W), where there is no classifier, and
            the other one for the pool that the classifier reads.
        device: device of the parameters.
        dtype: dtype of the parameters.
        **kwargs: the backbone's arguments but for ``out_indices``, which is an option of timm's ``features_only=True``.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    POOLS: tuple[str, ...] = ("avg", "")  # what ``global_pool`` may be

    def __init__(self, num_classes: int = 1000, global_pool: str = "avg", device=None, dtype=None, **kwargs):
        if "out_indices" in kwargs:
            raise TypeError("`out_indices` chooses feature maps: give features_only=True, too, or leave it out.")
        with torch.device(device or default_device()):
            super().__init__(**kwargs | dict(num_classes=num_classes))
        if dtype is not None:
            self.to(dtype)
        self.num_features = self.head_hidden_size = self.stage_dims[-1]
        self.feature_info = [
            dict(num_chs=dim, reduction=stride, module=f"stages.{i}")
            for i, (dim, stride) in enumerate(zip(self.stage_dims, self.stage_strides, strict=True))
        ]
        self.maps = nn.ModuleList()
        self._set_pool(global_pool)

    def expose_maps(self) -> None:
        """Make feature map i the output of a module ``maps.i``, for timm's extractors that read modules."""
        self.maps = nn.ModuleList(nn.Identity() for _ in self.stages)
        for i, level in enumerate(self.feature_info):
            level["module"] = f"maps.{i}"

    def _set_pool(self, global_pool: str) -> None:
        one_of("global_pool", global_pool, self.POOLS)
        self.global_pool = global_pool

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As ``nn.Module.load_state_dict``, but a published checkpoint's entries get our names first."""
        return super().load_state_dict(_under_our_names(state_dict), strict, assign)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that take no weight decay, beside vectors, of which timm knows: learned frames of fields."""
        return {name for name, _ in self.named_parameters() if "layer_scale" in name or name.endswith("bank.frame")}

    def group_matcher(self, coarse: bool = False) -> dict:
        """Regular expressions by which timm sorts parameters into groups, for learning rates that differ by depth.

        With ``coarse`` a group is a stage, otherwise a block.
        """
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            ]
        )
        return dict(stem=r"^stages\.0\.downsample", blocks=blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The linear layer that makes logits of pooled features; ``nn.Identity`` without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head; ``num_classes=0`` gives pooled features, ``global_pool=""`` the last feature map."""
        self._set_pool(self.global_pool if global_pool is None else global_pool)
        self.set_num_classes(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the last feature map (B, C', H', W'); with ``keep_time`` all of its steps (T, B, C', H', W')."""
        return self.leave(self.run_stages(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a feature map, and classify unless ``pre_logits``; the classifier always pools.

        A head with a neuron (SDT-V1, Meta-SDT, Max-Former) reads the course over time, which ``forward`` hands to it.
        Here it gets that course with ``keep_time`` only; the mean over time, which is the feature map otherwise, is held
        for T steps. ``ScaleCovariantNet`` pools over scales behind the pixels, and here before them: with
        ``pool="logsumexp"`` these are other numbers.
        """
        if self.num_classes and not pre_logits:
            return self.classify(self.undo_leave(x))
        return self.pool_pixels(x) if self.global_pool else x

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.run_stages(x)
        for level, output in zip(self.maps, outputs[: len(self.maps)], strict=True):
            level(self.leave(output))
        return self.classify(outputs[-1]) if self.num_classes else self.forward_head(self.leave(outputs[-1]))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The last stage's output and those of the chosen stages, as timm's models give them.

        Args:
            x: images (B, C, H, W), or event frames (T, B, C, H, W) for a model with a time axis.
            indices: the stages: a list, an int n for the last n, or ``None`` for all.
            norm: accepted for timm's signature; there is no final norm.
            stop_early: do not run the stages after the last chosen one.
            output_fmt: "NCHW", the only format.
            intermediates_only: return the list of feature maps (B, C_i, H_i, W_i) alone.

        Raises:
            ValueError: ``output_fmt`` is not "NCHW", or an index is out of range.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"`output_fmt` is {output_fmt!r}; allowed: 'NCHW'.")
        take = self._stage_indices(indices)
        outputs = self.run_stages(x, max(take) if stop_early else None)
        intermediates = [self.leave(outputs[i]) for i in take]
        return intermediates if intermediates_only else (self.leave(outputs[-1]), intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last chosen one, for feature extraction.

        Args:
            indices: the chosen stages, as in ``forward_intermediates``.
            prune_norm: accepted for timm's signature; there is no final norm.
            prune_head: remove the classifier too; this happens anyway where a stage is dropped.

        Returns:
            The chosen stages as indices from 0.

        Raises:
            ValueError: an index is out of range.
        """
        take = self._stage_indices(indices)
        pruned = max(take) < len(self.stages) - 1
        self.stages, self.maps = self.stages[: max(take) + 1], self.maps[: max(take) + 1]
        if pruned:
            remaining = len(self.stages)
            self.stage_dims, self.stage_strides = self.stage_dims[:remaining], self.stage_strides[:remaining]
            self.out_indices = tuple(i for i in self.out_indices if i < remaining)
            self.num_features = self.head_hidden_size = self.stage_dims[-1]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def _stage_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """Turn timm's ways to name stages (all, the last n, a list with negative indices) into indices from 0."""
        count = len(self.stages)
        if indices is None:
            return list(range(count))
        if is_whole(indices):
            if indices not in range(1, count + 1):
                raise ValueError(
                    f"`indices` is {indices}; this model has stages 0 to {count - 1}: take the last 1 to {count}."
                )
            wanted: Sequence[int] = range(count - indices, count)
        else:
            wanted = entries("indices", indices)
        take = [i + count if i in range(-count, 0) else i for i in wanted]
        if not take or any(i not in range(count) or not is_whole(i) for i in take):
            raise ValueError(f"`indices` is {indices!r}; this model has stages 0 to {count - 1}.")
        return take


def configuration(first_conv: str | tuple[str, ...], paper: str, **changes) -> dict:
    """A model's ``default_cfg``: ImageNet at 224x224, no weights.

    Args:
        first_conv: name of the model's first convolution, which timm and ``swap_stem`` look up; () if there is none.
        paper: arXiv id, such as "arXiv:2411.16061", or "".
        **changes: further entries.
    """
    return dict(
        url="",
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(14, 14),
        crop_pct=0.875,
        interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv=first_conv,
        classifier="head",
        license="apache-2.0",
        paper_ids=paper,
        **changes,
    )


def _under_our_names(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Entries of a published checkpoint under our names; those that have our names already are returned as they are."""
    only_a_head = all(key.startswith("head.") for key in state)
    return state if has_our_names(state) or only_a_head else convert_state_dict(state)


def checked_entries(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The entries of a checkpoint, which are those of the model; only the classifier may be missing.

    timm tolerates missing and unknown entries wherever the number of classes changes, as it does for feature maps.

    Raises:
        ValueError: an entry is missing or unknown; the message lists what does not fit.
    """
    classifier = f"{model.pretrained_cfg['classifier']}."  # type: ignore[index, union-attr]
    wrong = sorted(key for key in state.keys() ^ model.state_dict().keys() if not key.startswith(classifier))
    if wrong:
        raise ValueError(listing("the checkpoint is not of this model: entries that only one of the two has", wrong))
    return dict(state)


def _with_maps(model: Callable[..., Any], **options) -> nn.Module:
    built = model(**options)
    built.expose_maps()
    return built


def register(
    name: str,
    model: Callable[..., nn.Module],
    num_points: int | str,
    description: str,
    module: str = "",
    **options,
) -> None:
    """Register ``model(**options)`` with timm, so that ``timm.create_model(name)`` builds it.

    Args:
        name: the timm name.
        model: a class with timm's contract.
        num_points: number of feature levels, or the option that says it or has one entry for each;
            ``features_only=True`` gives all of them by default.
        description: beginning of the docstring of the registered function; the options follow it.
        module: name of the Python module that holds the ``default_cfgs`` of the name; the model's own by default.
        **options: arguments of the model that the name stands for; arguments of ``create_model`` replace them.
    """

    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        arguments = {**options, **kwargs}
        points = arguments[num_points] if isinstance(num_points, str) else num_points
        count = points if isinstance(points, int) else len(points)
        return build_model_with_cfg(
            model if kwargs.get("feature_cls", "getter") == "getter" else partial(_with_maps, model),
            name,
            pretrained,
            pretrained_filter_fn=lambda state, built: checked_entries(_under_our_names(state), built),
            feature_cfg=dict(out_indices=tuple(range(count)), feature_cls="getter"),
            **arguments,
        )

    create.__name__ = create.__qualname__ = name
    create.__module__ = module or model.__module__  # timm looks for `default_cfgs` there
    create.__doc__ = f"{description}: {options}."
    register_model(create)
