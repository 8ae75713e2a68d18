"""The OpenMMLab side: importing it provides missing mmcv ops and registers models, layers and constructors.

mmengine imports this module by itself when a config names a type such as ``sterf_plugins.SDTV3``.
"""

from importlib.util import find_spec

from ..compat import repair_config_packages, require

require("mmengine", extra="openmmlab")

from .mmcv_ops import provide_missing_ops  # noqa: E402

provide_missing_ops()
repair_config_packages()

from .. import timm as _timm_models  # noqa: E402, F401  (registers names for TIMMBackbone)
from . import atomic_backend, covariant_stems, layers, sdt_v3, shape_tracking, sharded, simple_fpn, timm_backbone  # noqa: E402, F401

# These modules subclass mmdet's and mmseg's classes and need those packages. Without them, mmengine reports a config
# that names one of the subclasses.
if find_spec("mmdet"):
    from . import spike_detection  # noqa: F401
if find_spec("mmseg"):
    from . import spike_segmentation  # noqa: F401
