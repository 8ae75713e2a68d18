"""The OpenMMLab side: importing it provides missing mmcv ops and registers models, layers and constructors.

mmengine imports this module by itself when a config names a type such as ``sterf_plugins.SDTV3``.
"""

from ..compat import repair_config_packages, require

require("mmengine", extra="openmmlab")

from .mmcv_ops import provide_missing_ops  # noqa: E402

provide_missing_ops()
repair_config_packages()

from .. import timm as _timm_models  # noqa: E402, F401  (names for TIMMBackbone)
from . import atomic_backend, layers, sdt_v3, timm_backbone  # noqa: E402, F401
