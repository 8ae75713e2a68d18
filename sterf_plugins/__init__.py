"""Spiking vision backbones, channel mixers and receptive-field tools for timm, MMDetection and MMSegmentation.

Importing this package loads neither torch nor OpenMMLab:

* timm users:       ``import sterf_plugins.timm``
* OpenMMLab users:  nothing; a ``type='sterf_plugins.X'`` in a config is enough (``import_hooks.py`` says why)
* tools:            ``sterf_plugins.setup()`` registers everything at once
"""

__version__ = "0.1.0"

__all__ = ["__version__", "setup"]


def setup() -> None:
    """Prepare the OpenMMLab side: provide missing mmcv ops, complete config bases, register every plugin.

    An installed package does the first two by itself, and mmengine the third when a config names a type of ours. The
    package's own tools call it, so that they work from a clone too.

    Raises:
        ImportError: the ``openmmlab`` extra is not installed; the message says how to install it.
    """
    from .checks import require

    require("mmengine", extra="openmmlab")
    from . import openmmlab  # noqa: F401  (importing registers)
