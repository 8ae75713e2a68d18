"""Stands in for mmcv's compiled ops (``mmcv._ext``) with torchvision's kernels where mmcv has none.

mmdet imports ``mmcv.ops``, which needs ``mmcv._ext``; a plain ``pip install`` has no such module. All ops that the stock
configs of mmdet and mmseg need are here, on CPU and CUDA: torchvision's own kernels where they compute the same, and
otherwise expressions of tensors. Every other op raises an error that names it. Where mmcv is compiled nothing is touched.

RoIPool alone is defined differently: torchvision rounds box corners to feature pixels as the Fast R-CNN paper does,
mmcv's CUDA kernel keeps fractions. Stock configs use RoIAlign.
"""

import types

from . import boxes, deformable, losses, norms, regions, windows

COMPILE_HINT = (
    "Install mmcv with compiled ops: pip install torch torchvision 'setuptools<82' wheel packaging ninja psutil && "
    "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv   "
    "(see https://github.com/VBTI-development/onedl-mmcv for prebuilt CUDA wheels)."
)


# Every public function of these modules is an op, named and called as in ``mmcv._ext``.
PROVIDED = tuple(
    op
    for part in (boxes, regions, deformable, windows, losses, norms)
    for name, op in vars(part).items()
    if not name.startswith("_") and getattr(op, "__module__", None) == part.__name__
)


class _Extension(types.ModuleType):
    """The stand-in module: any op can be looked up (``mmcv.ops`` asserts that), a missing one fails when called."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"the mmcv op {name!r} is not available: mmcv has no compiled ops here, and "
                                      f"no stock config of mmdet or mmseg needs it. {COMPILE_HINT}")  # fmt: skip

        missing.__name__ = name
        return missing


def stand_in(name: str) -> types.ModuleType:
    """The stand-in as a module of this name."""
    module = _Extension(name, "stand-ins for mmcv's compiled ops")
    for op in PROVIDED:
        setattr(module, op.__name__, op)
    return module
