"""mmengine child registries in scope ``sterf_plugins``.

mmengine imports this module by its name when it meets a type such as ``sterf_plugins.SDTV3``, and swallows import
errors here, so it imports mmengine only. What it registers lives in the modules named by ``locations``, which
mmengine imports on first use and whose errors it shows.
"""

from importlib.util import find_spec

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import Registry

__all__ = [
    "DATASETS",
    "HOOKS",
    "METRICS",
    "MODELS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "STRATEGIES",
    "TRANSFORMS",
    "VISBACKENDS",
]

# Data sets and metrics of mmdet take a moment to import, so ours that are made of them are imported when one is asked for.
_DATA = ["sterf_plugins.openmmlab", *(["sterf_plugins.openmmlab.events"] if find_spec("mmdet") else [])]

DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="sterf_plugins", locations=_DATA)
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="sterf_plugins", locations=_DATA)
MODELS = Registry("model", parent=MMENGINE_MODELS, scope="sterf_plugins", locations=["sterf_plugins.openmmlab"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="sterf_plugins", locations=["sterf_plugins.openmmlab"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="sterf_plugins",
    locations=["sterf_plugins.openmmlab"],
)
STRATEGIES = Registry(
    "strategy", parent=MMENGINE_STRATEGIES, scope="sterf_plugins", locations=["sterf_plugins.openmmlab"]
)
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="sterf_plugins", locations=_DATA)
VISBACKENDS = Registry(
    "vis_backend", parent=MMENGINE_VISBACKENDS, scope="sterf_plugins", locations=["sterf_plugins.openmmlab"]
)
