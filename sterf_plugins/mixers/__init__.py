"""Channel mixers: the branch ``x -> mixer(x)`` that a mixer block adds to its input.

The protocol, for our mixers and for those of other packages (entry-point group ``sterf_plugins.mixers``)::

    mixer(dim, ratio, **options) -> nn.Module     # (B, dim, H, W) -> (B, dim, H, W), without the residual

A backbone offers the options ``levels``, ``layout``, ``norm_hidden`` and ``drop``; a mixer receives those that its
signature names. Check one with ``sterf_plugins.testing.check_mixer``.
"""

from .conv import ConvMixer
from .mlpixer import MLPixer
from .srb import SRB
from .token_mixer import TokenMixer

__all__ = ["SRB", "ConvMixer", "MLPixer", "TokenMixer"]
