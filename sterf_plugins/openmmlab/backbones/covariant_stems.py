"""Covariant stems for mmdet's and mmseg's backbones, and the covariant convolution as an mmcv layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ...checks import flag
from ...registry import MODELS
from ...stems import covariant_like
from ...stems.fields.covariant_conv import PaddingMode
from ..runtime.mmengine_internals import initialisation_account

if TYPE_CHECKING:  # what the mixins below stand in front of
    from mmdet.models import ResNet as _ResNet
    from mmengine.model import BaseModule as _Backbone
else:
    _ResNet = _Backbone = object


@MODELS.register_module()
def CovariantConv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    bank: Mapping | None = None,
    init: str = "rf",
    learn: Sequence[str] = (),
) -> nn.Module:
    """A covariant convolution for ``conv_cfg=dict(type='sterf_plugins.CovariantConv2d')``; for 1x1 a plain one.

    (B, in_channels, H, W) -> (B, out_channels, H', W'), where H' and W' are those of ``nn.Conv2d`` with the same
    arguments if H and W are multiples of the stride. Kernels of the default bank are at least 7x7.

    Args:
        in_channels: input channels; mmcv fills in this and every argument up to ``padding_mode``.
        out_channels: output channels.
        kernel_size: kernel size of the convolution that is replaced.
        stride: stride of the convolution.
        padding: padding of the convolution that is replaced.
        dilation: must be 1, except for a 1x1 convolution.
        groups: must be 1, except for a 1x1 convolution.
        bias: add a bias.
        padding_mode: as in ``nn.Conv2d``.
        bank: arguments of ``RFBank``; ``None`` takes ``RFBank.for_kernel_size``.
        init: "rf", "rf-free" or "uniform", see ``CovariantRFConv2d``.
        learn: parameters of the default bank that are learned, such as ("sigma", "ratio", "angle").

    Raises:
        ValueError: groups or dilation are not 1, or no padding gives the bank's kernel these output sizes.
    """
    options: dict[str, Any] = dict(
        stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias, padding_mode=padding_mode
    )
    if kernel_size in (1, (1, 1)):
        return nn.Conv2d(in_channels, out_channels, kernel_size, **options)
    like = nn.Conv2d(in_channels, out_channels, kernel_size, **options, device="meta")
    return covariant_like(like, bank, init=init, learn=learn, where="the convolution")


class _SwappedStem(_Backbone):
    """What both backbones below share: the constructor replaces the first convolution by a covariant one.

    * ``init_weights`` puts the stock convolution back while it loads a checkpoint of the stock backbone. Then the norm
      behind the convolution is reset, since its statistics are those of another convolution.
    * ``frozen_stages`` and ``norm_eval`` leave the new stem alone unless ``freeze_stem`` is set.
    """

    def _swap(self, root: nn.Module, conv: str, norm: str | None, options: Mapping, freeze_stem: bool) -> None:
        self._names, self.freeze_stem = (conv, norm), flag("freeze_stem", freeze_stem)
        stock = root.get_submodule(conv)
        self._stock = [stock]  # in a list, so that it is not registered as a part of the model
        root.set_submodule(conv, covariant_like(stock, where=conv, **options))

    def _stem_parts(self, root: nn.Module) -> list[nn.Module]:
        return [root.get_submodule(name) for name in self._names if name]

    @contextmanager
    def _stock_stem(self, root: nn.Module) -> Iterator[None]:
        """The stock convolution is in its old place inside the block; afterwards the norm is reset."""
        conv, norm = self._names
        covariant, (stock,) = root.get_submodule(conv), self._stock
        # While a detector's init_weights runs, mmengine refuses parameters that are not in this dict.
        init_info = initialisation_account(self)
        if init_info is not None:
            init_info.update({p: dict(init_info="", tmp_mean_value=p.detach().mean()) for p in stock.parameters()})
        root.set_submodule(conv, stock)
        try:
            yield
        finally:
            root.set_submodule(conv, covariant)
            if init_info is not None:
                for p in stock.parameters():
                    init_info.pop(p, None)
        if norm:
            layer: Any = root.get_submodule(norm)
            layer.reset_parameters()

    @contextmanager
    def _stem_left_alone(self, root: nn.Module) -> Iterator[None]:
        """Undo what the block does to the stem's ``requires_grad`` and training modes, unless ``freeze_stem``."""
        if self.freeze_stem or not hasattr(self, "_names"):
            yield
            return
        parts = self._stem_parts(root)
        parameters = [(p, p.requires_grad) for part in parts for p in part.parameters()]
        training = [(m, m.training) for part in parts for m in part.modules()]
        yield
        for p, required in parameters:
            p.requires_grad = required
        for m, mode in training:
            m.training = mode


class _CovariantResNet(_SwappedStem, _ResNet):
    """To be combined with mmdet's or mmseg's ResNet as the second base class."""

    def __init__(self, *args, stem: Mapping | None = None, freeze_stem: bool = False, **kwargs):
        self._stem_options, self._freeze = dict(stem or {}), freeze_stem
        super().__init__(*args, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        conv, norm = ("stem.0", "stem.1") if self.deep_stem else ("conv1", self.norm1_name)
        self._swap(self, conv, norm, self._stem_options, self._freeze)

    def _freeze_stages(self) -> None:
        with self._stem_left_alone(self):
            super()._freeze_stages()

    def train(self, mode: bool = True):
        super().train(mode)
        if mode and not self.freeze_stem:  # norm_eval would keep the initial statistics for ever
            for part in self._stem_parts(self):
                part.train()
        return self

    def init_weights(self) -> None:
        with self._stock_stem(self):
            super().init_weights()


def _resnet_classes() -> dict[str, type]:
    """For each of mmdet and mmseg that is installed, a subclass of its ResNet with a covariant stem."""
    classes = {}
    for package in filter(find_spec, ("mmdet", "mmseg")):
        stock = import_module(f"{package}.models.backbones").ResNet
        classes[package] = type("CovariantStemResNet", (_CovariantResNet, stock), {"__module__": __name__})
    return classes


RESNETS = _resnet_classes()


@MODELS.register_module()
def CovariantStemResNet(
    depth: int, stem: Mapping | None = None, freeze_stem: bool = False, base: str | None = None, **kwargs
) -> BaseModule:
    """Mmdet's or mmseg's ResNet with a covariant first convolution; (B, C, H, W) -> tuple of feature maps.

    ``deep_stem=True`` gives their ResNetV1c, and ``avg_down=True`` in addition ResNetV1d; of the three convolutions
    of their stems the first is replaced.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem: options ``bank`` (arguments of ``RFBank``), ``init`` ("rf", "rf-free", "uniform") and ``learn`` of the
            covariant convolution, see ``CovariantConv2d``.
        freeze_stem: let ``frozen_stages`` and ``norm_eval`` act on the stem too.
        base: package of the ResNet, "mmdet" or "mmseg"; ``None`` takes the config's ``default_scope``.
        **kwargs: the ResNet's arguments. ``init_cfg=dict(type='Pretrained', ...)`` loads everything but the stem.

    Raises:
        ValueError: the package is not installed, or the stem's options do not fit.
    """
    scope = DefaultScope.get_current_instance()
    base = base or (scope.scope_name if scope and scope.scope_name in RESNETS else next(iter(RESNETS), None))
    if base not in RESNETS:
        raise ValueError(f"`base` is {base!r}; installed: {', '.join(RESNETS) or 'neither mmdet nor mmseg'}.")
    return RESNETS[base](depth, stem=stem, freeze_stem=freeze_stem, **kwargs)


@MODELS.register_module()
class WithCovariantStem(_SwappedStem, BaseModule):
    """Any backbone with its first convolution replaced by a covariant one; it takes and returns what the backbone does.

    Args:
        backbone: config of the backbone.
        target: name of its first convolution, such as "conv1", "stem.0" or "patch_embed.projection".
        norm: name of the norm behind it, which is reset after weights are loaded and which ``norm_eval`` does not
            freeze; ``None`` if there is none.
        stem: options ``bank`` (arguments of ``RFBank``), ``init`` and ``learn``, see ``CovariantConv2d``.
        freeze_stem: let the backbone freeze the new stem as it would have frozen the old one.
        init_cfg: leave it out; initialisation is set in the backbone's own ``init_cfg``.

    Raises:
        ValueError: the backbone has no such layer; the message lists what it has.
    """

    def __init__(
        self,
        backbone: Mapping,
        target: str = "conv1",
        norm: str | None = None,
        stem: Mapping | None = None,
        freeze_stem: bool = False,
        init_cfg: Mapping | None = None,
    ):
        super().__init__(init_cfg)
        self.backbone = MODELS.build(backbone)
        known = dict(self.backbone.named_modules())
        for name in filter(None, (target, norm)):
            if name not in known:
                convolutions = [n for n, m in known.items() if isinstance(m, nn.Conv2d)]
                raise ValueError(f"the backbone has no layer {name!r}; its first ones are {convolutions[:3]}.")
        self._swap(self.backbone, target, norm, stem or {}, freeze_stem)
        self._learned = [p.requires_grad for part in self._stem_parts(self.backbone) for p in part.parameters()]

    def forward(self, *args, **kwargs) -> tuple[Tensor, ...]:
        return self.backbone(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What a detector reads of its backbone, such as TridentNet's ``num_branch``, is the stock backbone's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    def train(self, mode: bool = True):
        super().train(mode)
        if not self.freeze_stem:
            parts = self._stem_parts(self.backbone)
            for part in parts:
                part.train(mode)
            parameters = [p for part in parts for p in part.parameters()]
            for p, required in zip(parameters, self._learned, strict=True):
                p.requires_grad = required
        return self

    def init_weights(self) -> None:
        with self._stock_stem(self.backbone):
            super().init_weights()
