"""Optional dependencies: clear errors, config bases of other packages, and a version report."""

import importlib.util
from importlib.metadata import PackageNotFoundError, packages_distributions, version

EXTRAS_HINT = 'pip install "sterf-plugins[{extra}]"'

# mmdet's dependencies bring both flavours of OpenCV into one folder; the last one written wins, and the one with
# windows needs libGL.so.1, which servers lack.
OPENCV_REPAIR = (
    "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless=={version}"
)


def require(module: str, extra: str) -> None:
    """Raise an ``ImportError`` that names the extra to install, unless ``module`` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"this needs the package {module!r}: {EXTRAS_HINT.format(extra=extra)}")


def repair_config_packages() -> None:
    """Make ``_base_ = 'mmseg::...'`` and ``'sterf_plugins::...'`` work.

    mmengine maps import names to distribution names in a fixed table, which knows neither this package nor the
    maintained ``onedl-*`` distributions of the others.
    """
    from mmengine.config import utils as config_utils

    distributions = packages_distributions()
    for module in ("mmdet", "mmseg", "sterf_plugins"):
        if module in distributions:
            config_utils.MODULE2PACKAGE[module] = distributions[module][0]


def opencv_repair() -> str:
    """The command that removes the OpenCV with windows and installs the headless one again."""
    try:
        headless = version("opencv-python-headless")
    except PackageNotFoundError:
        headless = "4.12.0.88"
    return OPENCV_REPAIR.format(version=headless)


def versions() -> dict[str, str]:
    """Import name -> name and version of the distributions that provide it, or "not installed"."""
    distributions = packages_distributions()
    installed = {}
    for module in (
        "torch",
        "torchvision",
        "timm",
        "spikingjelly",
        "numpy",
        "mmengine",
        "mmcv",
        "mmdet",
        "mmseg",
        "cv2",
        "norse",
    ):
        names = sorted(set(distributions.get(module, [])))
        try:
            installed[module] = ", ".join(f"{name} {version(name)}" for name in names) or "not installed"
        except PackageNotFoundError:
            installed[module] = "not installed"
    return installed
