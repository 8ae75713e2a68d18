"""Draw what covariance is: transform the image and the field alike, and the response is the old one, transformed.

    sterf show-covariance covariance.png
    sterf show-covariance covariance.png --sigma 2 --ratio 3 --order 2 0

For each linear map A of the plane, and a scene f that is known everywhere: response of the field to f, read at A^-1 p;
response at p of the field transformed by A to f(A^-1 p); their difference; and the difference if the field is left as
it was. Errors are the largest difference over the largest response.
"""

import argparse
import math
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from sterf_plugins.cli.console import run_tool
from sterf_plugins.erf.figures.sheet import SMALL, TITLE, WIDTH, write
from sterf_plugins.erf.figures.wording import digits
from sterf_plugins.files import check_new
from sterf_plugins.stems import RFBank

TURN = math.radians(30)
MAPS = {
    "turn by 30°": [[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]],
    "zoom by 2": [[2.0, 0.0], [0.0, 2.0]],
    "shear by 0.5": [[1.0, 0.5], [0.0, 1.0]],
    "stretch 1.6 x 0.8": [[1.6, 0.0], [0.0, 0.8]],
}


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("out", type=Path, help="picture to write")
    p.add_argument("--overwrite", action="store_true", help="replace the picture if it exists")
    p.add_argument("--sigma", type=float, default=2.5, help="size of the field in pixels (default: %(default)s)")
    p.add_argument("--ratio", type=float, default=2.0, help="longer to shorter axis (default: %(default)s)")
    p.add_argument("--angle", type=float, default=20.0, help="of the longer axis in degrees (default: %(default)s)")
    p.add_argument(
        "--order",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("M", "N"),
        help="derivatives along the axes (default 0 1)",
    )
    p.add_argument("--size", type=int, default=128, help="of the image in pixels (default: %(default)s)")
    return p.parse_args()


def scene(p: Tensor) -> Tensor:
    """Brightness (...) of a scene of three soft shapes at coordinates (x, y) in pixels from the middle, (..., 2)."""
    x, y = p.unbind(-1)
    disc = torch.sigmoid(2 * (11 - (x + 14).hypot(y + 8)))
    square = torch.sigmoid(2 * (9 - torch.maximum((x - 14).abs(), (y + 12).abs())))
    c, s = math.cos(0.4), math.sin(0.4)
    bar = torch.sigmoid(2 * (15 - (c * x + s * (y - 16)).abs())) * torch.sigmoid(2 * (3 - (c * (y - 16) - s * x).abs()))
    return disc + 0.7 * square + 0.9 * bar


def grid(size: int) -> Tensor:
    """Coordinates (x, y) of the pixels of a square image from its middle, (size, size, 2)."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)


def kernel(bank: RFBank) -> Tensor:
    """The bank's one kernel, float64."""
    return bank.double().kernels()[0]


def response(bank: RFBank, image: Tensor) -> Tensor:
    """Response (H, W) of the bank's kernel to an image (H, W): a convolution on the pixel grid."""
    h = kernel(bank)
    return F.conv2d(image[None, None], h.flip(0, 1)[None, None], padding=h.shape[-1] // 2)[0, 0]


def response_at(bank: RFBank, points: Tensor) -> Tensor:
    """Response of the bank's kernel h to the scene f at any points p (..., 2): the sum over u of h(u) f(p - u)."""
    h = kernel(bank)
    offsets = grid(h.shape[-1])
    total = torch.zeros(points.shape[:-1], dtype=points.dtype)
    for row, weights in zip(offsets, h, strict=True):
        total += scene(points.unsqueeze(-2) - row) @ weights
    return total


def compare(bank: RFBank, a: Tensor, size: int) -> dict[str, Tensor]:
    """Compute the panels of one linear map ``a`` (2, 2).

    Args:
        bank: the field, a bank with one kernel.
        a: the map of the plane, on coordinates (x, y).
        size: side of the image in pixels.

    Returns:
        ``image``, the scene transformed by ``a``; ``expected``, the response to the scene itself, transformed alike;
        ``moved``, the response of the transformed field to the image; and two differences from ``expected``, without
        the border and over the largest expected value: ``difference``, that of ``moved``, and ``unmoved``, that of the
        response of the field as it was.
    """
    points = grid(size)
    back = points @ torch.linalg.inv(a).T
    image = scene(back)
    expected = response_at(bank, back)
    moved = response(bank.transform(a), image)
    unmoved = response(bank, image)
    edge = bank.transform(a).kernel_size // 2  # pixels at the border whose window leaves the image
    cut = slice(edge, size - edge)
    top = expected.abs().max()
    return dict(
        image=image,
        expected=expected,
        moved=moved,
        difference=(moved - expected)[cut, cut] / top,
        unmoved=(unmoved - expected)[cut, cut] / top,
    )


PANELS = {  # what is drawn: heading, and the label of its colour bar
    "image": ("scene,\ntransformed", "brightness"),
    "expected": ("response,\ntransformed alike", "over its largest"),
    "moved": ("response of the\ntransformed field", "over the largest"),
    "difference": ("difference\nof the two", "over the largest"),
    "unmoved": ("difference if the\nfield is unchanged", "over the largest"),
}


def draw(results: dict[str, dict[str, Tensor]]) -> Figure:
    """A row for each linear map, and a column for each panel, with one colour scale for a column.

    The colours of negative, zero and positive values differ in grey, too.
    """
    figure = Figure(figsize=(WIDTH, 1.75 * len(results) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(results), len(PANELS), squeeze=False)
    for column, (key, (heading, label)) in zip(rows.T, PANELS.items(), strict=True):
        shown = {name: result[key] for name, result in results.items()}
        if key in ("expected", "moved"):
            shown = {name: panel / results[name]["expected"].abs().max() for name, panel in shown.items()}
        top = max(panel.abs().max().item() for panel in shown.values())
        options = dict(cmap="gray", vmin=0, vmax=top) if key == "image" else dict(cmap="cividis", vmin=-top, vmax=top)
        for ax, (name, panel) in zip(column, shown.items(), strict=True):
            edge = (results[name]["image"].shape[0] - panel.shape[0]) // 2
            side = (edge - 0.5, edge + panel.shape[0] - 0.5)
            picture = ax.imshow(panel, extent=(*side, *side[::-1]), **options)
            size = results[name]["image"].shape[0]
            ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), facecolor="0.85")
            ax.set(xticks=[0, size // 2, size - 1], yticks=[0, size // 2, size - 1])
            ax.tick_params(labelsize=SMALL, length=2, labelleft=key == "image", labelbottom=ax is column[-1])
            error = f"largest {digits(panel.abs().max().item())}" if key in ("difference", "unmoved") else ""
            ax.set_title(f"{heading}\n{error}".strip() if ax is column[0] else error, fontsize=TITLE)
            if key == "image":
                ax.set_ylabel(name, fontsize=TITLE, fontweight="bold")
        bar = figure.colorbar(picture, ax=column, location="bottom", aspect=14, pad=0.01)
        bar.set_ticks([0, top] if key == "image" else [-top, 0, top])
        bar.ax.set_xticklabels([f"{tick:.3g}" for tick in bar.get_ticks()])
        bar.ax.tick_params(labelsize=SMALL)
        bar.set_label(label, fontsize=SMALL)
    figure.supxlabel("Axes: pixels. Grey: left out, because the field reaches beyond the image there.", fontsize=SMALL)
    return figure


def main() -> None:
    args = parse_args()
    if args.size < 32:
        raise ValueError(f"--size is {args.size}; it must be at least 32.")
    check_new(args.out, args.overwrite)
    bank = RFBank([args.sigma], [args.ratio], angles=[math.radians(args.angle)], orders=[tuple(args.order)], truncate=5)
    maps = {name: torch.tensor(a, dtype=torch.float64) for name, a in MAPS.items()}
    window = max(bank.transform(a).kernel_size for a in maps.values())
    if window >= args.size:
        raise ValueError(
            f"--sigma {args.sigma:g} --ratio {args.ratio:g}: the largest of the transformed fields has a window of {window} "
            f"pixels, which fits nowhere into images of {args.size}; give a smaller --sigma, or --size {2 * window}."
        )
    results = {name: compare(bank, a, args.size) for name, a in maps.items()}
    for name, result in results.items():
        errors = {k: digits(result[k].abs().max().item()) for k in ("difference", "unmoved")}
        print(f"{name:18s} field transformed: {errors['difference']}   unchanged: {errors['unmoved']}")
    figure = draw(results)
    print(write(figure, args.out))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run_tool(main)
