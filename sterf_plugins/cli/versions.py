"""Which packages are installed, and the command that mends a doubled OpenCV."""

from importlib.metadata import PackageNotFoundError, packages_distributions, version

# mmdet's dependencies bring both flavours of OpenCV into one folder; the last one written wins, and the one with
# windows needs libGL.so.1, which servers lack.
OPENCV_REPAIR = (
    "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless=={version}"
)


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
