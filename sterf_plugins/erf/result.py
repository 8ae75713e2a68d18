"""What an ERF computation gives back: maps by layer, numbers, a file, a picture."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import area_ratio


@dataclass
class ERFResult:
    """Effective receptive fields of some layers of one model.

    Attributes:
        layers: layer names, in order of execution.
        spatial: layer -> float32 (H, W): mean over inputs of the mean over input channels of the absolute (or
            otherwise reduced) gradient of the layer's channel sum at the target position.
        info: how it was computed (number of inputs, input shape, position, reduce).
    """

    layers: list[str]
    spatial: dict[str, np.ndarray]
    info: dict[str, Any] = field(default_factory=dict)

    def area_ratio(self, layer: str, share: float = 0.5) -> float:
        """Smallest share of the input's pixels that holds ``share`` of the layer's mass.

        Raises:
            ValueError: unknown layer; the message lists the layers.
        """
        if layer not in self.spatial:
            raise ValueError(f"no layer {layer!r} in this result; it has {', '.join(self.layers)}.")
        return area_ratio(self.spatial[layer], share)

    def save(self, path: str | os.PathLike) -> Path:
        """Write an ``.npz``: ``layers``, ``info`` (JSON) and one array ``spatial.<i>`` per layer."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"spatial.{i}": self.spatial[name] for i, name in enumerate(self.layers)}
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez_compressed(
                file, layers=np.array(self.layers), info=np.array(json.dumps(self.info)), **arrays, allow_pickle=False
            )
        os.replace(partial, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ERFResult":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is not such a result.
        """
        with np.load(path, allow_pickle=False) as file:
            if "layers" not in file or "info" not in file:
                raise ValueError(f"{path} is no ERF result: it has {', '.join(file.files)}, not `layers` and `info`.")
            layers = [str(name) for name in file["layers"]]
            spatial = {name: file[f"spatial.{i}"] for i, name in enumerate(layers)}
            return cls(layers, spatial, json.loads(str(file["info"])))

    def plot(self, path: str | os.PathLike | None = None):
        """Draw the maps side by side; returns a matplotlib ``Figure``, and writes it if ``path`` is given."""
        from .plot import draw

        return draw(self, path)
