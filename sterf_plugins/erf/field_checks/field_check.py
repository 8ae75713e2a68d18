"""How well receptive fields agree with changes that were measured: maps, numbers with standard errors, warnings, a picture."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import archive
from ..numbers.metrics import area_ratio
from ..numbers.number import Number, columns
from ..numbers.similarity import overlap_steps, similarity, with_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class FieldCheck:
    """Receptive fields beside the changes that a network shows; ``check_field`` makes it.

    Attributes:
        maps: layer -> (N, kinds, rows, columns): the maps of every input over the grid of patches.
        kinds: what the maps are: "field", the gradient's mass in each patch; "change", how much the unit changes when
            the patch is changed; "predicted", how much it would by the gradient; "live", the field without the surrogate
            gradients of ``info["left_out"]``.
        info: how it was computed.
    """

    maps: dict[str, np.ndarray]
    kinds: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order of execution."""
        return list(self.maps)

    def map(self, layer: str, kind: str) -> np.ndarray:
        """The mean over inputs of one kind of map, (rows, columns).

        Raises:
            ValueError: there is no such layer or kind; the message lists what there is.
        """
        for name, value, allowed in (("layer", layer, self.layers), ("kind", kind, self.kinds)):
            if value not in allowed:
                raise ValueError(f"no {name} {value!r} in this check; it has {', '.join(allowed)}.")
        return self.maps[layer].mean(0)[self.kinds.index(kind)]

    def numbers(self, layer: str) -> dict[str, Number]:
        """Numbers of the mean maps of a layer, with jackknife standard errors over inputs.

        ``rank``, ``common_mass``, ``overlap_50``, ``overlap_90`` compare the field with the change (see ``similarity``), the
        same with ``predicted_`` and ``live_`` in front the prediction and the live field with it. ``gain``: sum of the changes
        over that of the predictions, 1 for a linear network, 0 where only a surrogate gradient leads. ``unchanged``: share
        of the field's mass in patches whose change is exactly zero for all inputs. ``area_90_field``, ``area_90_change``:
        smallest share of the patches that holds 90 % of the mass. ``reliability``: rank correlation of the changes of every
        second input with those of the others; where it is low, more inputs are needed before anything can agree.

        Raises:
            ValueError: there is no such layer, or nothing was changed.
        """
        self.map(layer, "change")
        numbers = with_errors(self.maps[layer], self._compare, self._steps)
        if len(self.maps[layer]) > 1:
            change = self.maps[layer][:, self.kinds.index("change")]
            halves = similarity(change[::2].mean(0), change[1::2].mean(0))
            numbers["reliability"] = Number(halves["rank"], float("nan"))
        return numbers

    def _compare(self, mean: np.ndarray) -> dict[str, float]:
        maps = dict(zip(self.kinds, mean, strict=True))
        shown, change, predicted = maps["field"], maps["change"], maps["predicted"]
        numbers = similarity(shown, change)
        for kind in self.kinds:
            if kind not in ("field", "change"):
                numbers |= {f"{kind}_{key}": value for key, value in similarity(maps[kind], change).items()}
        numbers["gain"] = float(change.sum() / predicted.sum()) if predicted.any() else float("nan")
        numbers["unchanged"] = float(shown[change == 0].sum() / shown.sum()) if shown.any() else 0.0
        for name, m in (("field", shown), ("change", change)):
            numbers[f"area_90_{name}"] = area_ratio(m, 0.9) if m.any() else 0.0
        return numbers

    def _steps(self, mean: np.ndarray) -> dict[str, float]:
        maps = dict(zip(self.kinds, mean, strict=True))
        change = maps.pop("change")
        steps: dict[str, float] = {}
        for kind, m in maps.items():
            prefix = "" if kind == "field" else f"{kind}_"
            steps |= {f"{prefix}{name}": step for name, step in overlap_steps(m, change).items()}
        return steps

    @property
    def warnings(self) -> list[str]:
        """One line for each layer whose field does not show what the network does.

        These are layers without a gradient, and layers that nothing changes; fields with a tenth of their mass or more where
        nothing changes; and those whose rank correlation with the changes is below a half, by more than two standard errors,
        with a word about the changes where they are no more alike themselves (``reliability``).
        """
        lines = [f"{layer}: no field. {reason}" for layer, reason in self.info.get("failed", {}).items()]
        for layer in self.layers if "change" in self.kinds else []:
            numbers = self.numbers(layer)
            rank, unchanged = numbers["rank"], numbers["unchanged"].value
            if not self.map(layer, "field").any():
                lines.append(f"{layer}: its gradient is zero for all inputs, so that there is no field to compare.")
            elif not self.map(layer, "change").any():
                lines.append(
                    f"{layer}: no change of any patch changes it; its field is the surrogate gradient's alone."
                )
            elif unchanged >= 0.1:
                lines.append(
                    f"{layer}: {unchanged:.0%} of its field's mass lies in patches whose change does nothing. Behind spikes that "
                    f"is the field of the surrogate gradient, not of the network; else the changes are too small for float32."
                )
            elif rank.value + 2 * np.nan_to_num(rank.error) < 0.5:
                reliability = numbers["reliability"].value if "reliability" in numbers else 0.0
                lines.append(
                    f"{layer}: rank correlation of its field with the measured changes {rank}; "
                    + (
                        "the field does not show which patches matter."
                        if reliability >= 0.5
                        else f"that of the changes of one half of the inputs with the other is {reliability:.2f}, so more inputs "
                        f"are needed, or all patches matter alike."
                    )
                )
        return lines

    def rows(self) -> list[dict[str, Any]]:
        """One dict per layer: ``layer``, and for each number ``name`` and ``name_error``; for tables and CSV files."""
        return [{"layer": layer} | columns(self.numbers(layer)) for layer in self.layers]

    def save(self, path: str | os.PathLike) -> Path:
        """Write an ``.npz``: ``layers``, ``kinds``, ``info`` as JSON, and the array ``maps.<i>`` of layer i."""
        arrays: dict[str, Any] = {f"maps.{i}": m for i, m in enumerate(self.maps.values())}
        arrays |= dict(layers=np.array(self.layers), kinds=np.array(self.kinds), info=np.array(json.dumps(self.info)))
        return archive.save(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FieldCheck":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is no check that ``save`` wrote.
        """
        with archive.arrays(path, "check of fields", ("layers", "kinds")) as file:
            maps = {str(name): file[f"maps.{i}"] for i, name in enumerate(file["layers"])}
            return cls(maps, tuple(map(str, file["kinds"])), json.loads(str(file["info"])))

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draw all maps; returns a matplotlib ``Figure``, and writes it if ``path`` is given."""
        from ..figures.check_plot import draw_checks

        return draw_checks({"": self}, path)
