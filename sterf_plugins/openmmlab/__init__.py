"""The OpenMMLab side: importing it provides missing mmcv ops and registers models, layers, hooks and constructors.

mmengine imports this module by itself when a config names a type such as ``sterf_plugins.SDTV3``.
"""

from importlib.util import find_spec

from ..checks import require

require("mmengine", extra="openmmlab")

from .. import import_hooks  # noqa: E402

import_hooks.install()  # where PyTorch has not: before anything below imports mmdet or mmseg

from .. import timm as _timm_models  # noqa: E402, F401  (registers names for TIMMBackbone)
from ..tracking import openmmlab as _tracking  # noqa: E402, F401
from ..tracking import sd_track_openmmlab as _sd_track  # noqa: E402, F401
from . import backbones, configs, heads, hooks, layers  # noqa: E402
from .runtime import atomic_backend as _backend  # noqa: E402, F401
from .runtime import mlflow_backend as _mlflow  # noqa: E402, F401
from .runtime import sharded as _strategy  # noqa: E402, F401

# These modules subclass mmdet's and mmseg's classes and need those packages. Without them, mmengine reports a config
# that names one of the subclasses.
if find_spec("mmdet"):
    from . import data_preprocessor as _preprocessor  # noqa: F401
    from .heads import spike_detection as _detection  # noqa: F401
    from .heads import spike_one_stage as _one_stage  # noqa: F401
    from .runtime import mmdet_mends as _mends  # noqa: F401
if find_spec("mmseg"):
    from .heads import spike_segmentation as _segmentation  # noqa: F401

__all__ = ["backbones", "configs", "heads", "hooks", "layers"]
