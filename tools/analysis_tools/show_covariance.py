"""Draw what covariance is: transform the image and the field alike, and the response is the old one, transformed.

    python tools/analysis_tools/show_covariance.py covariance.png
    python tools/analysis_tools/show_covariance.py covariance.png --sigma 2 --ratio 3 --order 2 0

For each linear map A of the plane, and a scene f that is known everywhere: response of the field to f, read at A^-1 p;
response at p of the field transformed by A to f(A^-1 p); their difference; and the difference if the field is left as
it was. Errors are the largest difference over the largest response.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from sterf_plugins.cli.console import run_tool
from sterf_plugins.files import check_new, replacing
from sterf_plugins.stems import RFBank

TURN = math.radians(30)
MAPS = {
    "turn by 30°": [[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]],
    "zoom by 2": [[2.0, 0.0], [0.0, 2.0]],
    "shear by 0.5": [[1.0, 0.5], [0.0, 1.0]],
    "stretch 1.6 x 0.8": [[1.6, 0.0], [0.0, 0.8]],
}


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main() -> None:
    args = parse_args()
    if args.size < 32:
        raise ValueError(f"--size is {args.size}; it must be at least 32.")
    check_new(args.out, args.overwrite)
    bank = RFBank([args.sigma], [args.ratio], angles=[math.radians(args.angle)], orders=[tuple(args.order)], truncate=5)
    figure = Figure(figsize=(11, 2.3 * len(MAPS)), layout="constrained")
    rows = figure.subplots(len(MAPS), 5, squeeze=False)
    for axes, (name, matrix) in zip(rows, MAPS.items(), strict=True):
        result = compare(bank, torch.tensor(matrix, dtype=torch.float64), args.size)
        top = result["expected"].abs().max().item()
        errors = {k: result[k].abs().max().item() for k in ("difference", "unmoved")}
        panels = [
            ("image", name, None),
            ("expected", "response, transformed", top),
            ("moved", "response to transformed\n(field transformed alike)", top),
            ("difference", f"their difference\nerror {errors['difference']:.1e}", 1.0),
            ("unmoved", f"with the field unchanged\nerror {errors['unmoved']:.2f}", 1.0),
        ]
        for ax, (key, title, limit) in zip(axes, panels, strict=True):
            limits = {} if limit is None else dict(vmin=-limit, vmax=limit)
            ax.imshow(result[key], cmap="gray" if limit is None else "RdBu_r", **limits)
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=9)
        print(f"{name:18s} field transformed: {errors['difference']:.1e}   unchanged: {errors['unmoved']:.2f}")
    with replacing(args.out) as partial:
        figure.savefig(partial, dpi=100)
    print(args.out)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run_tool(main, again="the same command")
