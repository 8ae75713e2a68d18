"""How published papers define, show and measure effective receptive fields.

g is the gradient of one number of the output with respect to one input image, (C, H, W). The protocols differ in that
number, in what they take of g, in how they show the mean over images, and in what they measure of it:

========= ============================ =================== ============================ =========================
protocol  number that is differentiated taken of g          shown                        measured
========= ============================ =================== ============================ =========================
st-erf    sum of the centre's channels mean of abs(g)      as it is                     smallest share of pixels
luo       the same                     mean of g, signed   positive part, over maximum  root of the area above 4.55 %
replknet  the same of relu(output)     sum of relu(g)      log10(x + 1), over maximum   centred square of the log map
slak      as replknet                  as replknet         over maximum                 as replknet
vmamba    as replknet                  as replknet         fifth root, over maximum     nothing
openerf   as st-erf                    relu of the mean    over sum                     Gaussian, mass within radii
========= ============================ =================== ============================ =========================

"Mean" and "sum" are over the input's channels. ``Protocol.citation`` says where each is from, and ``docs/erf.md`` where
a paper and its released program differ. This file is about maps alone; ``passes/fields.py`` has the backward passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checks import one_of
from .numbers.gaussian import WIDEST
from .numbers.metrics import area_ratio

Numbers = dict[str, float]
_NARROWEST = 0.02  # pixels; between two pixels a Gaussian that is narrower is zero on both


def _over_maximum(field: np.ndarray) -> np.ndarray:
    top = field.max()
    return field / top if top > 0 else field


def _log(field: np.ndarray) -> np.ndarray:
    """``log10(x + 1)`` over its maximum; unlike the other ways of showing a map, it depends on the map's scale.

    The base cancels, and ``log1p`` keeps a map that is small beside the 1.
    """
    return _over_maximum(np.log1p(np.asarray(field, np.float64)))


def _positive(field: np.ndarray) -> np.ndarray:
    return _over_maximum(np.maximum(field, 0))


def _size(field: np.ndarray) -> Numbers:
    """Root of the number of pixels above 1 - 95.45 % of the centre, which in the paper's networks is the maximum.

    Beside it stands the 90 % area of the positive part; all other numbers of a signed map are of absolute values.
    """
    size = float(np.sqrt((field > (1 - 0.9545) * field.max()).sum()))
    return {"luo_size": size, "positive_area_90": area_ratio(np.maximum(field, 0), 0.9)}


def _step_of_size(numbers: Numbers) -> Numbers:
    """How far this size is from the next one: one pixel more is above the threshold."""
    return {"luo_size": float(np.sqrt(numbers["luo_size"] ** 2 + 1) - numbers["luo_size"])}


def _squares(field: np.ndarray) -> Numbers:
    """Side and area of the smallest centred square with more than 20, 30, 50, 99 % of the log map's sum.

    The sides are 3, 5, ... up to the image's side less one, and what would lie outside the image is cut off; a share
    that no such square holds is NaN.
    """
    data = _log(field)
    h, w = data.shape
    sides = np.arange(3, 2 * (h // 2), 2)
    sums = [data[max(h // 2 - i, 0) : h // 2 + i + 1, max(w // 2 - i, 0) : w // 2 + i + 1].sum() for i in sides // 2]
    shares = np.asarray(sums) / data.sum()
    numbers: Numbers = {}
    for share in (0.2, 0.3, 0.5, 0.99):
        holds = sides[shares > share]
        side = float(holds[0]) if len(holds) else float("nan")
        numbers |= {f"square_side_{share * 100:g}": side, f"square_area_{share * 100:g}": side * side / (h * w)}
    return numbers


def _steps_of_squares(numbers: Numbers) -> Numbers:
    """How far the sides and areas of these squares are from the next ones: sides are odd."""
    steps: Numbers = {}
    for key, side in numbers.items():
        if key.startswith("square_side_"):
            area = key.replace("side", "area")
            steps |= {key: 2.0, area: numbers[area] * ((1 + 2 / side) ** 2 - 1)}
    return steps


def _gaussian_and_radii(field: np.ndarray) -> Numbers:
    """Widths of the fitted upright Gaussian, and the mass within 5 to 80 px of pixel (H // 2, W // 2).

    Of all Gaussians about (x, y) with widths (a, b), the best amplitude follows from the sums below; what is left to
    minimise has four unknowns.
    """
    from scipy.optimize import minimize

    mass = np.asarray(field, np.float64) / field.sum()
    rows, columns = np.arange(mass.shape[0]), np.arange(mass.shape[1])

    def explained(p: np.ndarray) -> float:
        """Minus the part of the sum of squares that the Gaussian explains."""
        a, b = np.maximum(np.abs(p[2:]), _NARROWEST)
        v, u = np.exp(-(((rows - p[0]) / a) ** 2) / 2), np.exp(-(((columns - p[1]) / b) ** 2) / 2)
        size = (v @ v) * (u @ u)  # 0 for a narrow one beside the map
        return -((v @ mass @ u) ** 2) / size / (mass**2).sum() if size > 0 else 0.0

    y, x = mass.sum(1) @ rows, mass.sum(0) @ columns
    start = [y, x, np.sqrt(mass.sum(1) @ (rows - y) ** 2) + 0.5, np.sqrt(mass.sum(0) @ (columns - x) ** 2) + 0.5]
    fit = minimize(explained, start, method="Nelder-Mead", options=dict(xatol=1e-4, fatol=1e-12, maxiter=2000))
    distance = np.hypot(*np.meshgrid(rows - len(rows) // 2, columns - len(columns) // 2, indexing="ij"))
    # A width of many maps is that of a flat one, in which the fit goes on as long as it may; a single row or column has none.
    widths = [
        w if n > 1 and w < WIDEST * n else np.nan for w, n in zip(np.abs(fit.x[[3, 2]]), mass.shape[::-1], strict=True)
    ]
    numbers = {"openerf_sigma_x": float(widths[0]), "openerf_sigma_y": float(widths[1])}
    return numbers | {f"openerf_mass_{r}": float(mass[distance <= r].sum()) for r in (5, 10, 20, 30, 40, 60, 80)}


@dataclass(frozen=True)
class Protocol:
    """A published way of computing, showing and measuring an effective receptive field.

    Attributes:
        title: its name in text.
        citation: paper or program.
        channels: how the output's channels enter, as in ``compute_erf``.
        reduce: what is taken of the gradient, as in ``compute_erf``.
        summed: whether the input's channels are summed; otherwise they are averaged.
        shown: what ``picture`` does, in words.
        picture: from the mean over images, as an ``ERFResult`` holds it, to the map that the paper shows.
        numbers: what the paper measures of the mean over images besides ``metrics.spatial_numbers``, by name.
        num_images: how many images it takes.
        steps: from ``numbers`` to the steps in which they move, by name, of those that move in steps.
        size: (H, W) to which it resizes them; ``None`` for the model's own size.
        squashed: whether it resizes both sides alike, whatever the image's shape; otherwise it cuts out the middle.
        upper_left: whether in a grid of tokens with even sides the centre is the upper left of the middle four.
    """

    title: str
    citation: str
    channels: str | int
    reduce: str
    summed: bool
    shown: str
    picture: Callable[[np.ndarray], np.ndarray]
    numbers: Callable[[np.ndarray], Numbers]
    num_images: int
    steps: Callable[[Numbers], Numbers] = lambda numbers: {}
    size: tuple[int, int] | None = None
    squashed: bool = False
    upper_left: bool = False

    def measured(self, field: np.ndarray) -> Numbers:
        """``numbers`` of a mean over images; all are NaN where it is nowhere positive, as a signed map may be."""
        if field.max() > 0:
            return self.numbers(field)
        return dict.fromkeys(self.numbers(np.ones(field.shape)), float("nan"))

    def places(self, places: list[Any], tokens: bool) -> list[Any]:
        """The target's places in a layer's output: ``places`` as they are, but for the centre of some grids."""
        just_below = 0.5 - 1e-9  # of n rows it is row (n - 1) // 2
        return [(just_below, just_below)] if self.upper_left and tokens and places == ["center"] else places


_REPLKNET = Protocol(
    title="RepLKNet",
    citation="Ding et al. 2022, arXiv:2203.06717, erf/ of DingXiaoH/RepLKNet-pytorch",
    channels="relu",
    reduce="relu",
    summed=True,
    shown="log10(x + 1) over its maximum",
    picture=_log,
    numbers=_squares,
    num_images=50,
    steps=_steps_of_squares,
    size=(1024, 1024),
    squashed=True,
)
PROTOCOLS: Mapping[str, Protocol] = {
    "st-erf": Protocol(
        title="ST-ERF",
        citation="arXiv:2510.21403",
        channels="auto",
        reduce="abs",
        summed=False,
        shown="as it is",
        picture=lambda field: field,
        numbers=lambda field: {},
        num_images=64,
    ),
    "luo": Protocol(
        title="Luo et al.",
        citation="Luo et al. 2016, arXiv:1701.04128",
        channels="sum",
        reduce="signed",
        summed=False,
        shown="positive part over its maximum",
        picture=_positive,
        numbers=_size,
        num_images=20,
        steps=_step_of_size,
    ),
    "replknet": _REPLKNET,
    "slak": replace(
        _REPLKNET,
        title="SLaK",
        citation="Liu et al. 2023, arXiv:2207.03620, erf/ of VITA-Group/SLaK",
        shown="over its maximum",
        picture=_over_maximum,
    ),
    "vmamba": replace(
        _REPLKNET,
        title="VMamba",
        citation="Liu et al. 2024, arXiv:2401.10166, analyze/ of MzeroMiko/VMamba",
        shown="fifth root over its maximum",
        picture=lambda field: _over_maximum(field**0.2),
        numbers=lambda field: {},
        squashed=False,
    ),
    "openerf": Protocol(
        title="OpenERF",
        citation="package openerf 0.6.1",
        channels="sum",
        reduce="mean-relu",
        summed=False,
        shown="over its sum",
        picture=lambda field: field / field.sum(),
        numbers=_gaussian_and_radii,
        num_images=1000,
        upper_left=True,
    ),
}
_FIXED = dict(position="center", time="sum", aggregate="mean", normalize=None)  # what all protocols have in common


def choose(
    protocol: str | None, *, reduce: str | None, channels: str | int | None, kinds: Any, **others: Any
) -> tuple[str | None, dict[str, Protocol]]:
    """What to compute of each output.

    Args:
        protocol: a name in ``PROTOCOLS``, "all", or ``None`` to combine the other options freely.
        reduce: as in ``compute_erf``; ``None`` for the protocol's.
        channels: as in ``compute_erf``; ``None`` for the protocol's.
        kinds: as in ``compute_erf``.
        **others: position, time, aggregate and normalize of ``compute_erf``, which are the same in all protocols.

    Returns:
        The protocol's name, ``None`` if the options are those of no protocol; and what is added to a layer's name ->
        how that field is computed.

    Raises:
        ValueError: there is no such protocol, or an option contradicts it.
    """
    one_of("protocol", protocol, (None, *PROTOCOLS, "all"))
    ours = PROTOCOLS["st-erf"]
    if protocol is None:
        own = replace(
            ours,
            reduce=ours.reduce if reduce is None else reduce,
            channels=ours.channels if channels is None else channels,
        )
        return "st-erf" if own == ours and all(_FIXED[k] == v for k, v in others.items()) else None, {"": own}
    names = list(PROTOCOLS) if protocol == "all" else [protocol]
    for name in names:
        fixed = _FIXED | dict(reduce=PROTOCOLS[name].reduce, channels=PROTOCOLS[name].channels)
        for option, value in dict(reduce=reduce, channels=channels).items():
            if value is not None:
                _agree(name, option, value, fixed[option])
        for option, value in others.items():
            _agree(name, option, value, fixed[option])
        if name != "st-erf" and kinds not in (None, "spatial") and tuple(kinds) != ("spatial",):
            _agree(name, "kinds", kinds, "spatial")
    return protocol, {f"@{name}": PROTOCOLS[name] for name in names} if protocol == "all" else {"": PROTOCOLS[protocol]}


def _agree(name: str, option: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise ValueError(
            f"`{option}` is {value!r}, but protocol {name!r} ({PROTOCOLS[name].title}) has {wanted!r}. Leave one of the "
            f"two out."
        )


def protocol_of(info: Mapping[str, Any], layer: str) -> Protocol | None:
    """The protocol that a layer's field in a result with this ``info`` follows; ``None`` if it is none."""
    name = info.get("protocol") or ""
    return PROTOCOLS.get(layer.rpartition("@")[2] if name == "all" else name)


def note(info: Mapping[str, Any]) -> str | None:
    """What a picture says of another protocol than ours, with the paper's inputs where they were more or of other size."""
    name = info.get("protocol") or ""
    if name == "all":
        return "layer@protocol: the same inputs by each published protocol"
    if name not in PROTOCOLS or name == "st-erf":
        return None
    protocol, size = PROTOCOLS[name], tuple(info["input_shape"][-2:])
    wanted = protocol.size or size
    if info["num_inputs"] >= protocol.num_images and size == wanted:
        return f"protocol {protocol.title}"
    return f"protocol {protocol.title}; the paper has {protocol.num_images} inputs of {wanted[0]}×{wanted[1]}"


def table(result: Any) -> str:
    """The protocols of a result that was computed with all of them, side by side.

    Areas are those of the maps, as papers give them, and corrected for the bias of few inputs, as ``result.numbers`` has them.
    """
    width = max(len(layer.rpartition("@")[0]) for layer in [*result.layers, "layer@"])
    lines = [f"{'layer':<{width}}  {'protocol':<10}  {'90 % area':>9}  {'corrected':>17}  the paper's own numbers"]
    for layer in result.layers:
        numbers, protocol = result.numbers(layer), protocol_of(result.info, layer)
        assert protocol is not None
        own = [f"{key} {numbers[key].value:.4g}" for key in protocol.measured(result.spatial[layer])]
        name, _, short = layer.rpartition("@")
        area, corrected = result.area_ratio(layer, 0.9), str(numbers["area_90"])
        short += " †" if result.doubtful(layer) else ""
        lines.append(f"{name:<{width}}  {short:<10}  {area:>9.4f}  {corrected:>17}  {', '.join(own) or '–'}")
    return "\n".join(lines)
