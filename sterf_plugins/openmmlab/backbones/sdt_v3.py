"""SDT-V3 as an mmengine backbone."""

from collections.abc import Callable, Mapping

from mmengine.logging import print_log
from mmengine.model import PretrainedInit

from ... import backbones
from ...checkpoints import convert_state_dict, infer_architecture
from ...checkpoints.reading import renamed
from ...checks import flag, positive_int
from ...registry import MODELS
from ...stems import ConvStem
from ..runtime.checkpoint_files import read_weights
from .freezing import Freezing, check_frozen_stages

_STEM = "stages.0.downsample."
_CONV_STEM = [_STEM + key for key in ConvStem(3, 2).state_dict()]


@MODELS.register_module()
class SDTV3(backbones.SDTV3, Freezing):
    """``sterf_plugins.backbones.SDTV3`` for mmdet and mmseg; (B, C, H, W) -> tuple of (B, C_i, H_i, W_i).

    Args:
        pretrained: path of a checkpoint; short for ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` loads a published SDT-V3, MLPixer or SRB checkpoint, or
            one of ours, strictly: keys that do not fit are an error, not a warning. ``prefix="student.backbone"`` names
            the entries of a backbone inside a larger model.
        frozen_stages: stages 0 to this one are not trained; -1 trains all.
        norm_eval: BatchNorm keeps its statistics during training, as is usual with few images per GPU.
        with_cp: compute each stage again in the backward pass instead of keeping its tensors: less memory, more time.
        in_channels: image channels, as in every backbone of mmdet and mmseg; the network itself calls them ``in_chans``.
        stem: as the network's; a dict without ``type`` holds arguments of the stem "covariant".
        **kwargs: the backbone's other arguments.

    Raises:
        ValueError: an argument, or the checkpoint, does not fit; the message says what is allowed.
    """

    is_init: bool  # an attribute of mmengine's BaseModule

    def __init__(
        self,
        pretrained: str | None = None,
        init_cfg: Mapping | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        in_channels: int = 3,
        stem: str | Mapping | Callable = "conv",
        **kwargs,
    ):
        if "in_chans" in kwargs:
            raise ValueError(f"`in_chans` is {kwargs['in_chans']}; in a config it is `in_channels`.")
        if isinstance(stem, Mapping) and "type" not in stem:
            stem = dict(type="covariant", **stem)
        super().__init__(in_chans=positive_int("in_channels", in_channels), stem=stem, **kwargs)
        self.grad_checkpointing = flag("with_cp", with_cp)
        frozen = range(check_frozen_stages(frozen_stages, len(self.stages)) + 1)
        self.freeze([f"stages.{i}" for i in frozen], self.stages[: len(frozen)].parameters(), norm_eval)
        if pretrained and init_cfg:
            raise ValueError("`pretrained` and `init_cfg` are both given; give one of them.")
        self.init_cfg = dict(type="Pretrained", checkpoint=pretrained) if pretrained else init_cfg

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, if there is one; the constructor has initialised everything else."""
        if self.init_cfg and self.init_cfg.get("type") in ("Pretrained", PretrainedInit) and not self.is_init:
            path = self.init_cfg["checkpoint"]
            state = convert_state_dict(read_weights(path, self.init_cfg.get("prefix") or ""))
            if not self.num_classes:
                state = renamed(state, lambda key: None if key.startswith("head.") else key)
            self._load_strictly(state, path)
            self.is_init = True
            return
        super().init_weights()

    def _load_strictly(self, state: dict, path: str) -> None:
        """Load converted weights; ``ValueError`` if a key or a shape differs.

        The stem of a plugin keeps its own values if the weights, as those of all releases, are of a ``ConvStem``.
        """
        own = self.state_dict()
        shapes = {k: v.shape for k, v in own.items() if k.startswith(_STEM)}
        stored = {k: v.shape for k, v in state.items() if k.startswith(_STEM)}
        is_plugin = not isinstance(self.stages[0].downsample, ConvStem)
        if is_plugin and shapes != stored and stored.keys() == set(_CONV_STEM):
            state = renamed(state, lambda key: None if key.startswith(_STEM) else key)
            state.update((k, v) for k, v in own.items() if k.startswith(_STEM))
        wrong = sorted(
            {k for k in own.keys() ^ state.keys()}
            | {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape}
        )
        if wrong:
            raise ValueError(
                f"the checkpoint {path} holds {_described(state)}, which is not this backbone: {len(wrong)} entries "
                f"differ, such as {wrong[0]!r}. Change the backbone's arguments; released MLPixer and SRB need "
                f"layout='raster', norm_hidden=False."
            )
        self.load_state_dict(state, strict=True)
        print_log(f"backbone weights loaded from {path} ({len(state)} tensors)", logger="current")


def _described(state: dict) -> str:
    """What the entries tell of the model that they are of, for an error message."""
    try:
        stored = infer_architecture(state)
    except ValueError:  # mixers of a plugin, or no backbone at all
        return "another model"
    return (
        f"embed_dims={stored['arch']['embed_dims']}, mixer={stored['mixer']!r}, ratio={stored['ratio']}, "
        f"norm_hidden={stored['norm_hidden']}, layer_scale={'yes' if stored['layer_scale'] else 'no'}"
    )
