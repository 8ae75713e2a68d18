"""What a training leaves as it is in a backbone: frozen stages, and the statistics of norms."""

from collections.abc import Iterable
from typing import Self

from mmengine.model import BaseModule
from torch import nn

from ...checks import flag, has_statistics


class Freezing(BaseModule):
    """Mixin for a backbone: ``frozen_stages`` and ``norm_eval`` of mmdet's and mmseg's backbones."""

    _frozen: tuple[str, ...] = ()
    norm_eval = False

    def freeze(self, modules: Iterable[str], parameters: Iterable[nn.Parameter], norm_eval: bool) -> None:
        """Keep modules, given by name, in eval mode and parameters as they are; with ``norm_eval`` all norms' statistics.

        Names are looked up each time, since a conversion to SyncBN puts other modules in their place.
        """
        for parameter in parameters:
            parameter.requires_grad_(False)
        self._frozen, self.norm_eval = tuple(modules), flag("norm_eval", norm_eval)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but frozen stages and, with ``norm_eval``, every BatchNorm stay in eval mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        for module in self.modules() if self.norm_eval else ():
            if has_statistics(module):
                module.eval()
        return self


def check_frozen_stages(frozen_stages: int, stages: int) -> int:
    """Return ``frozen_stages``, the last stage that is not trained, or raise ``ValueError`` if there is none such."""
    if isinstance(frozen_stages, bool) or frozen_stages not in range(-1, stages):
        raise ValueError(
            f"`frozen_stages` is {frozen_stages!r}; give the last stage that is not trained, 0 to {stages - 1}, or -1 to "
            f"train all."
        )
    return frozen_stages
