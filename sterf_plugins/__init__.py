"""Spiking vision backbones, channel mixers and receptive-field tools for timm, MMDetection and MMSegmentation.

Importing this package loads neither torch nor OpenMMLab:

* timm users:       ``import sterf_plugins.timm``
* OpenMMLab users:  nothing; a ``type='sterf_plugins.X'`` in a config is enough
* tools:            ``sterf_plugins.setup()`` makes ``mmseg::`` and ``sterf_plugins::`` config bases work
"""

__version__ = "0.1.0"

__all__ = ["__version__", "setup"]


def setup() -> None:
    """Prepare the OpenMMLab side: repair config bases, provide missing mmcv ops, register every plugin.

    Needed only in programs that read configs themselves; the package's own tools call it.

    Raises:
        ImportError: the ``openmmlab`` extra is not installed; the message says how to install it.
    """
    from .checks import require

    require("mmengine", extra="openmmlab")
    from . import openmmlab  # noqa: F401  (importing registers)
