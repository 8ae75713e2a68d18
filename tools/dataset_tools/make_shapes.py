"""Render a data set of simple scenes, in COCO and in ADE20K format, as real files.

    sterf make-shapes data/shapes --num-train 800 --num-val 200 --size 128

Plain classes (disc, square, triangle) can be told apart locally. The pair twin_a / twin_b looks the same; only
the colour of a small mark elsewhere in the image, at a graded distance that is recorded in each annotation
(`mark_distance`, in pixels), tells which it is. So accuracy on the pair, drawn against the distance, shows how far a
model really looks.

    OUT/train2017/*.jpg  OUT/val2017/*.jpg  OUT/annotations/instances_{train,val}2017.json       COCO instances
    OUT/ade/images/{training,validation}/*.jpg  OUT/ade/annotations/{training,validation}/*.png  ADE20K, 0 = ignored

The scenes depend on the seed and on nothing else. An interrupted run leaves no data set behind.
"""

import argparse
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import cv2
import numpy as np
from tqdm import tqdm

from sterf_plugins.cli.own_tools import tool_name
from sterf_plugins.files import is_taken, replacing_folder, settings_in

PLAIN = ("disc", "square", "triangle")
TWINS = ("twin_a", "twin_b")
CLASSES = PLAIN + TWINS
ADE_CLASSES = ("background", *CLASSES)
MARK_COLORS = {"twin_a": (230, 40, 40), "twin_b": (40, 70, 240)}  # RGB
MARK_DISTANCES = (0.12, 0.24, 0.36, 0.48, 0.60)  # of the image size
SPLITS = {"train": ("train2017", "training"), "val": ("val2017", "validation")}
# Degrees on the colour circle. A class mostly has its own hues, as things in the world do; a share has any.
HUES = {"disc": 20, "square": 230, "triangle": 125, "twin_a": 50, "twin_b": 50}
OWN_HUE_SHARE = 0.85
TILT = np.pi / 8  # shapes stand upright up to this angle
FORMAT_VERSION = 1
# Patterns of the files of a data set.
MADE = (
    "shapes.json",
    "annotations/instances_*2017.json",
    "train2017/[0-9]*.jpg",
    "val2017/[0-9]*.jpg",
    "ade/images/*/ADE_*.jpg",
    "ade/annotations/*/ADE_*.png",
)


@dataclass
class Scene:
    """One image and its objects; a mask shows the part of an object that is visible."""

    image: np.ndarray  # (size, size, 3) uint8 RGB
    masks: list[np.ndarray] = field(default_factory=list)  # (size, size) bool
    labels: list[str] = field(default_factory=list)
    extras: list[dict] = field(default_factory=list)  # fields added to the COCO annotation
    crowd: np.ndarray | None = None  # (size, size) bool


def outline(name: str, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a shape, (N, 2) in pixels, upright at angle 0; the disc is a 40-gon."""
    if name == "disc":
        turns, radii = np.arange(40) / 40, np.ones(40)
    elif name == "square":
        turns, radii = np.arange(4) / 4 + 1 / 8, np.ones(4)
    elif name == "triangle":
        turns, radii = np.arange(3) / 3 - 1 / 4, np.ones(3)
    else:  # both twins are the same cross
        arm = 0.32
        corners = np.array([(1, arm), (arm, arm), (arm, 1)])
        quarter = corners / np.hypot(1, arm)
        turn = np.array([[0, 1], [-1, 0]])
        points = np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
        turns, radii = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi), np.hypot(points[:, 0], points[:, 1])
    phi = 2 * np.pi * turns + angle
    return center + radius * radii[:, None] * np.stack([np.cos(phi), np.sin(phi)], 1)


def fill(corners: np.ndarray, size: int) -> np.ndarray:
    """Rasterise a polygon to (size, size) bool, with 1/16 pixel accuracy of the corners."""
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.round((corners - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1], (size, size), interpolated between cells x cells random numbers."""
    coarse = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def texture(rng: np.random.Generator, size: int, color: np.ndarray) -> np.ndarray:
    """A fill of one main colour: plain, striped, chequered or blotchy; (size, size, 3) float in 0..255."""
    kind = rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    angle, period = rng.random() * np.pi, rng.uniform(5, 12)
    along, across = xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)
    if kind == 0:
        amount = np.zeros((size, size), np.float32)
    elif kind == 1:
        amount = (np.sin(2 * np.pi * along / period) > 0).astype(np.float32)
    elif kind == 2:
        amount = (np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period) > 0).astype(np.float32)
    else:
        amount = noise(rng, size, max(4, size // 8))
    other = np.clip(color + rng.uniform(-60, 60, 3), 0, 255)
    return color + amount[..., None] * (other - color)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth colours, fine grain and clutter strokes; (size, size, 3) float in 0..255."""
    image = np.stack([noise(rng, size, int(rng.integers(3, 7))) for _ in range(3)], -1)
    image = rng.uniform(50, 130) + 70 * image
    for _ in range(rng.integers(2, 6)):
        start, end = rng.integers(0, size, (2, 2))
        color = tuple(float(c) for c in rng.uniform(0, 255, 3))
        cv2.line(image, start.tolist(), end.tolist(), color, int(rng.integers(1, 3)), cv2.LINE_AA)
    return image + rng.normal(0, 5, image.shape)


def shape_color(rng: np.random.Generator, name: str) -> np.ndarray:
    """A colour for a shape: mostly of the class's own range of hues, sometimes any."""
    own = rng.random() < OWN_HUE_SHARE
    hue = (HUES[name] + rng.uniform(-30, 30) if own else rng.uniform(0, 360)) % 360
    saturation, value = (rng.uniform(0.1, 0.3), rng.uniform(0.8, 1)) if name in TWINS else rng.uniform(0.5, 1, 2)
    sector = np.array([5, 3, 1]) + hue / 60  # HSV to RGB
    return 255 * value * (1 - saturation * np.clip(np.minimum(sector % 6, 4 - sector % 6), 0, 1))


def find_place(
    rng: np.random.Generator, size: int, name: str, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw a place for a shape that covers little of what is ``taken``: (mask, centre), or ``None`` without success."""
    for _ in range(12):
        radius = size * np.exp(rng.uniform(np.log(0.12), np.log(0.26)))
        center = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
        mask = fill(outline(name, center, radius, rng.uniform(-TILT, TILT)), size)
        if (mask & taken).sum() <= 0.15 * mask.sum():
            return mask, center
    return None


def render(seed: int, split: str, index: int, size: int) -> Scene:
    """Scene ``index`` of a split; a pure function of its arguments."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    image = background(rng, size)
    scene = Scene(image=image)
    taken = np.zeros((size, size), bool)
    names = [str(n) for n in rng.choice(PLAIN, rng.integers(1, 5))]
    if rng.random() < 0.35:
        names.append(str(rng.choice(TWINS)))
    areas, centers = [], []
    for name in names:
        placed = find_place(rng, size, name, taken)
        if placed is None:
            continue
        mask, center = placed
        image[mask] = texture(rng, size, shape_color(rng, name))[mask]
        scene.masks = [m & ~mask for m in scene.masks]
        scene.masks.append(mask)
        scene.labels.append(name)
        scene.extras.append({})
        areas.append(mask.sum())
        centers.append(center)
        taken |= mask
    _mark_twin(rng, scene, centers, areas, taken)
    if rng.random() < 0.08:
        _crowd(rng, scene, taken)
    keep = [i for i, m in enumerate(scene.masks) if m.sum() >= max(20, 0.3 * areas[i])]
    for name in ("masks", "labels", "extras"):
        setattr(scene, name, [getattr(scene, name)[i] for i in keep])
    scene.image = np.clip(image, 0, 255).astype(np.uint8)
    return scene


def _mark_twin(rng: np.random.Generator, scene: Scene, centers: list, areas: list, taken: np.ndarray) -> None:
    """Draw the mark that tells which twin it is; a twin without room for its mark becomes unannotated clutter."""
    twins = [i for i, name in enumerate(scene.labels) if name in TWINS]
    if not twins:
        return
    i, size = twins[0], scene.image.shape[0]
    radius = max(2.0, 0.028 * size)
    for distance in rng.permutation(MARK_DISTANCES) * size:
        for angle in rng.random(8) * 2 * np.pi:
            center = centers[i] + distance * np.array([np.cos(angle), np.sin(angle)])
            if (center < radius + 1).any() or (center > size - radius - 1).any():
                continue
            mask = fill(outline("disc", center, radius, 0.0), size)
            if (mask & taken).any():
                continue
            scene.image[mask] = MARK_COLORS[scene.labels[i]]
            taken |= mask
            scene.extras[i] = dict(mark_distance=float(distance), mark_xy=[float(c) for c in center])
            return
    for items in (scene.masks, scene.labels, scene.extras, centers, areas):
        del items[i]


def _crowd(rng: np.random.Generator, scene: Scene, taken: np.ndarray) -> None:
    """A swarm of tiny discs, annotated as one crowd region."""
    size = scene.image.shape[0]
    middle = rng.uniform(0.2, 0.8, 2) * size
    crowd = np.zeros((size, size), bool)
    for center in middle + rng.normal(0, 0.07 * size, (14, 2)):
        mask = fill(outline("disc", center, 0.022 * size, 0.0), size) & ~taken
        scene.image[mask] = shape_color(rng, "disc")
        crowd |= mask
    scene.crowd = crowd if crowd.any() else None


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: column-major run lengths, starting with zeros."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    edges = np.stack([starts, ends], 1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return dict(size=list(mask.shape), counts=counts.tolist())


def polygons(mask: np.ndarray) -> list[list[float]] | dict:
    """COCO polygons of a mask; RLE where it has a hole, which polygons cannot say."""
    up = 4
    enlarged = np.kron(mask.astype(np.uint8), np.ones((up, up), np.uint8))
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return run_lengths(mask)
    rings = [((c[:, 0] + 0.5) / up).round(2) for c in contours if len(c) >= 3]
    return [ring.ravel().tolist() for ring in rings]


def coco_annotation(mask: np.ndarray, label: str, extra: dict, crowd: bool = False) -> dict:
    """The COCO annotation of an object, without its ids; ``extra`` fields are added to it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return dict(
        category_id=CLASSES.index(label) + 1,
        bbox=[x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        area=int(mask.sum()),
        segmentation=run_lengths(mask) if crowd else polygons(mask),
        iscrowd=int(crowd),
        **extra,
    )


def semantic_map(scene: Scene) -> np.ndarray:
    """ADE20K labels: 0 ignored (crowd), 1 background, 2.. the classes; (size, size) uint8."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    if scene.crowd is not None:
        labels[scene.crowd] = 0
    for mask, label in zip(scene.masks, scene.labels, strict=True):
        labels[mask] = ADE_CLASSES.index(label) + 1
    return labels


def write_split(folder: Path, split: str, count: int, size: int, seed: int) -> None:
    """Render ``count`` scenes of a split ("train" or "val"), and write them in both formats."""
    coco, ade = SPLITS[split]
    paths = {
        "coco": folder / coco,
        "ade": folder / "ade" / "images" / ade,
        "labels": folder / "ade" / "annotations" / ade,
    }
    for path in paths.values():
        path.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in tqdm(range(count), desc=f"{split} scenes", unit="img", disable=None):
        scene = render(seed, split, index, size)
        image_id = index + 1
        name = f"{image_id:012d}.jpg"
        ok, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert ok
        (paths["coco"] / name).write_bytes(jpeg.tobytes())
        ade_name = f"ADE_{split}_{image_id:08d}"
        (paths["ade"] / f"{ade_name}.jpg").write_bytes(jpeg.tobytes())
        cv2.imwrite(str(paths["labels"] / f"{ade_name}.png"), semantic_map(scene))
        images.append(dict(id=image_id, file_name=name, height=size, width=size, license=1))
        objects = [coco_annotation(*a) for a in zip(scene.masks, scene.labels, scene.extras, strict=True)]
        if scene.crowd is not None:
            objects.append(coco_annotation(scene.crowd, "disc", {}, crowd=True))
        for annotation in objects:
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **annotation))
    document = dict(
        info=dict(description="rendered shapes", version=str(FORMAT_VERSION), seed=seed),
        licenses=[dict(id=1, name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0")],
        images=images,
        annotations=annotations,
        categories=[
            dict(id=i + 1, name=name, supercategory="twin" if name in TWINS else "shape")
            for i, name in enumerate(CLASSES)
        ],
    )
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{coco}.json").write_text(json.dumps(document))


def parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--num-train", type=int, default=800, help="training images (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=200, help="validation images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="scenes depend on it alone (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that was made otherwise")
    args = parser.parse_args()
    for name, least in (("num_train", 1), ("num_val", 1), ("size", 48), ("seed", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {least}")
    return args


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on a half-written data set is removed
    args = parse_args()
    made_with = dict(
        version=FORMAT_VERSION, num_train=args.num_train, num_val=args.num_val, size=args.size, seed=args.seed
    )
    marker = args.out / "shapes.json"
    if is_taken(args.out) and not args.overwrite:
        if settings_in(marker) == made_with:
            print(f"{args.out} is already there, made with the same settings")
            return
        sys.exit(
            _refuse(
                f"error: {args.out} exists and was not made with these settings; give another folder or --overwrite"
            )
        )
    if is_taken(args.out) and not marker.is_file():
        sys.exit(_refuse(f"error: {args.out} holds no shapes data set (no {marker.name}); it is not deleted"))
    try:
        with replacing_folder(args.out, MADE) as partial:
            write_split(partial, "train", args.num_train, args.size, args.seed)
            write_split(partial, "val", args.num_val, args.size, args.seed)
            (partial / marker.name).write_text(json.dumps(made_with))
    except OSError as error:
        sys.exit(_refuse(f"error: cannot write {args.out}: {error.strerror or error}"))
    except ValueError as error:
        sys.exit(_refuse(f"error: {error}"))
    except KeyboardInterrupt:
        sys.exit(_refuse("interrupted; nothing was left behind", 130))
    print(f"{args.num_train} + {args.num_val} scenes of {args.size}x{args.size} in {args.out}")


def _refuse(message: str, code: int = 2) -> int:
    """Print why the tool ends, and return the exit code."""
    print(f"{tool_name()}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
