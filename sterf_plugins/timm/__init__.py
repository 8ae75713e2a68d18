"""Registers the package's models, and those of other packages, with timm.

    >>> import timm, sterf_plugins.timm
    >>> model = timm.create_model("sdtv3_tiny_srb", features_only=True)

Importing this module loads the entry-point group ``sterf_plugins.models``, this package's own models included.
"""

from .. import plugins
from .model_card import write_model_card
from .stems import CovariantPatchEmbed, swap_stem

__all__ = ["CovariantPatchEmbed", "swap_stem", "write_model_card"]

plugins.load_all("models")
