"""One self-contained HTML page of the demo's results: numbers, curves, predictions, receptive fields.

python tools/demo_report.py work_dirs/demo --data data/shapes
"""

import argparse
import html
import json
from pathlib import Path

from sterf_plugins.cli.begin import begin

if __name__ == "__main__":
    begin()

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.stats import binomtest

from sterf_plugins.cli import console
from sterf_plugins.cli.demo.page import STYLE, chart, number, picture, scalars, table
from sterf_plugins.cli.demo.scores import (
    Scores,
    average_precision,
    intersection_over_union,
    plain_mean,
    quiet_coco,
    read_image,
    read_prediction,
    twin_accuracy,
)
from sterf_plugins.cli.drawn_objects import Drawn, draw_objects, paint
from sterf_plugins.cli.versions import versions
from sterf_plugins.erf import ERFResult
from sterf_plugins.erf.figures.plot import draw_maps
from sterf_plugins.erf.figures.sheet import NARROW, WIDTH, embedded, pixels, write
from sterf_plugins.erf.figures.wording import digits, layer_label, measured
from sterf_plugins.files import replacing

# Label of a row of fields -> folder of its training. The trainings differ in their mixers alone.
COMPARED = {
    "conv": "fields_conv",
    "MLPixer": "fields_mlpixer",
    "SRB": "fields_srb",
    "SRB raster": "fields_srb-raster",
}
TRAINED = "100 iterations of 4 images, alike for all rows"
EXPECTED = {"box": 0.85, "mask": 0.85, "iou": 0.70}  # lowest AP50 of boxes and masks, and mIoU, where all is well
SCORE = 0.5  # of detections that are drawn, at least
ENLARGED = 4  # pictures, so often
COLORS = {  # RGB, by class
    "disc": (230, 80, 90),
    "square": (90, 170, 250),
    "triangle": (110, 210, 120),
    "twin_a": (250, 200, 70),
    "twin_b": (200, 130, 250),
}


# --- pictures -----------------------------------------------------------------------------------------------------


def draw_detections(truth: COCO, results: Path, folder: Path, count: int) -> list[tuple[str, str]]:
    """(ground truth, prediction) pictures of the first images, enlarged."""
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    detections: dict[int, list] = {}
    for detection in json.loads(results.read_text()):
        if detection["score"] >= SCORE:
            detections.setdefault(detection["image_id"], []).append(detection)
    pairs = []
    for info in truth.dataset["images"][:count]:
        image = read_image(folder / info["file_name"])[..., ::-1]
        real = [(truth.annToMask(a).astype(bool), a) for a in truth.loadAnns(truth.getAnnIds(info["id"]))]
        ours = [(coco_mask.decode(d["segmentation"]).astype(bool), d) for d in detections.get(info["id"], [])]
        pairs.append((drawn(image, real, names), drawn(image, ours, names)))
    return pairs


def drawn(image: np.ndarray, objects: list, names: dict[int, str]) -> str:
    """The enlarged image with the objects, pairs of a mask and a COCO entry, painted and named on it, as a data URI."""
    shown = []
    for mask, item in sorted(objects, key=lambda pair: -pair[1].get("score", 1.0)):  # the surest find a place first
        name = names[item["category_id"]]
        text = name + (f" {item['score']:.2f}" if "score" in item else "")
        shown.append(Drawn(mask, item["bbox"], text, COLORS[name]))
    return picture(draw_objects(image, shown, ENLARGED))


def draw_segmentations(maps: Path, data: Path, classes: list[str], count: int) -> list[tuple[str, str]]:
    """(ground truth, prediction) pictures of the first semantic maps."""
    palette = np.array([(60, 60, 60), *[COLORS[c] for c in classes[1:]]], np.uint8)
    pairs = []
    for path in sorted((data / "ade" / "annotations" / "validation").glob("*.png"))[:count]:
        image = read_image(data / "ade" / "images" / "validation" / f"{path.stem}.jpg")[..., ::-1]
        truth = read_image(path, cv2.IMREAD_GRAYSCALE).astype(np.int64) - 1
        pictures = []
        for labels in (np.clip(truth, 0, None), read_prediction(maps, path)):
            mixed = image.copy()
            paint(mixed, labels > 0, palette[labels[labels > 0]], 0.7)
            pictures.append(picture(mixed, ENLARGED))
        pairs.append((pictures[0], pictures[1]))
    return pairs


def receptive_fields(out: Path) -> dict[str, ERFResult]:
    """The fields of each mixer's detector before training (``at_start``) and after it, by mixer and weights."""
    fields = {}
    for mixer, folder in COMPARED.items():
        paths = sorted(out.glob(f"{folder}/2*/vis_data/erf/*.npz"), key=lambda p: int(p.stem))
        for when, weights, path in zip(
            ("random", "trained"), ("random", TRAINED), paths[:1] + paths[-1:], strict=False
        ):
            result = ERFResult.load(path)
            result.info["weights"] = weights
            fields[f"{mixer} ({when})"] = result
    return fields


def mixer_picture(fields: dict[str, ERFResult], path: Path) -> None:
    """One picture of all receptive fields: rows are mixers before and after training, columns are feature levels."""
    figure = draw_maps(fields)
    for suffix in (".png", ".pdf"):
        write(figure, path.with_suffix(suffix))


def field_picture(fields: dict[str, ERFResult]) -> str:
    """The same picture, and a narrow one for telephones, as HTML."""
    alt = "; ".join(
        f"{name}: "
        + ", ".join(f"{layer_label(result, n)}: {measured(result.numbers(n)['area_90'])}" for n in result.layers)
        for name, result in fields.items()
    )
    wide, narrow = (embedded(pixels(draw_maps(fields, page=page))) for page in (WIDTH, NARROW))
    return (
        f'<figure><picture><source media="(max-width: 860px)" srcset="{narrow}">'
        f'<img class="fields" src="{wide}" '
        f'alt="Receptive fields; share of pixels with 90 % of the mass: {html.escape(alt, quote=True)}"></picture></figure>'
    )


def firing_table(out: Path) -> str:
    """Firing rates of the mixers' hidden spikes after each training of a detector, as HTML."""
    rows = []
    for label, folder in {"SRB, the long training": "mask-rcnn_srb", **COMPARED}.items():
        paths = sorted(out.glob(f"{folder}/2*/vis_data/firing_rate/*.json"), key=lambda p: int(p.stem))
        if not paths:
            continue
        layers = json.loads(paths[-1].read_text())["layers"]
        hidden = [layer for name, layer in layers.items() if name.endswith("mixer.spike2")]
        silent = sum(layer["silent"] for layer in layers.values())
        cells = [f"{digits(layer['rate'])} <span class='soft'>({layer['dead']:.0%})</span>" for layer in hidden]
        rows.append([label, *cells, f"{silent} of {len(layers)}"])
    places = ("stage 0, stride 2", "stage 1, stride 4", "stage 2, stride 8, first block", "its second block")
    head = ["mixer", *places, "silent spike layers of the network"]
    return table(head, rows)


# --- the page -----------------------------------------------------------------------------------------------------


def pair_figures(pairs: list[tuple[str, str]]) -> str:
    """The key of the classes, and pairs of pictures, ground truth and prediction, as HTML."""
    key = "".join(
        f'<li><span style="background: rgb{color}"></span>{html.escape(name)}</li>' for name, color in COLORS.items()
    )
    figures = "".join(
        f'<figure><div class="pair"><img alt="ground truth of image {i}" src="{a}">'
        f'<img alt="prediction for image {i}" src="{b}"></div></figure>'
        for i, (a, b) in enumerate(pairs, 1)
    )
    return f'<ul class="key">{key}</ul><div class="pairs">{figures}</div>'


def score(value: float) -> str:
    """A score with three digits behind the point."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def class_table(truth: COCO, boxes: Scores, masks: Scores, ious: dict[str, float]) -> str:
    """Every class, and the means over the plain ones and over all, as HTML."""
    ids = {c["name"]: c["id"] for c in truth.dataset["categories"]}
    count = {name: len(truth.getAnnIds(catIds=[key])) for name, key in ids.items()}
    rows = [
        [name, str(count[name]), score(boxes.by_class[name]), score(masks.by_class[name]), score(ious[name])]
        for name in boxes.by_class
    ]
    rows.append(["background", "–", "–", "–", score(ious["background"])])
    plain = sum(n for name, n in count.items() if not name.startswith("twin"))
    means = (boxes.plain(), masks.plain(), plain_mean(ious))
    rows.append(["<b>mean, plain shapes</b>", str(plain), *map(score, means)])
    means = (boxes.all(), masks.all(), float(np.nanmean(list(ious.values()))))
    rows.append(["<b>mean, all classes</b>", str(sum(count.values())), *map(score, means)])
    return table(["class", "objects", "box AP50", "mask AP50", "IoU (FPN)"], rows)


def twin_table(twins: list[tuple[float, int, int, int]]) -> str:
    """How often found twins got the right name, with its 95 % interval beside chance, as HTML."""
    rows = []
    whole = ("all distances", sum(t[1] for t in twins), sum(t[2] for t in twins), sum(t[3] for t in twins))
    for where, count, found, right in [*((f"{d} px", n, f, r) for d, n, f, r in twins), whole]:
        share, interval = "–", "–"
        if found:
            low, high = binomtest(right, found).proportion_ci(method="wilson")
            share, interval = f"{right / found:.2f}", f"{low:.2f} to {high:.2f}"
        rows.append([where, str(count), str(found), share, interval, "0.50"])
    return table(["distance of the mark", "twins", "found", "right name", "95 % interval", "chance"], rows)


def curves(out: Path) -> str:
    """Charts of the losses and metrics of the two SRB trainings, as HTML."""
    det, seg = scalars(out / "mask-rcnn_srb"), scalars(out / "fpn_srb")
    train_det = [r for r in det if "loss" in r]
    loss_names = ("loss", "loss_cls", "loss_bbox", "loss_mask")
    losses = {name: ([r["step"] for r in train_det], [r[name] for r in train_det]) for name in loss_names}
    train_seg = [r for r in seg if "loss" in r]
    losses_seg = {"loss": ([r["step"] for r in train_seg], [r["loss"] for r in train_seg])}
    val_det, val_seg = [r for r in det if "coco/bbox_mAP_50" in r], [r for r in seg if "mIoU" in r]
    ap = {
        f"{kind} AP50, all classes": ([r["step"] for r in val_det], [r[f"coco/{key}_mAP_50"] for r in val_det])
        for kind, key in (("box", "bbox"), ("mask", "segm"))
    }
    miou = {"mIoU, all classes (%)": ([r["step"] for r in val_seg], [r["mIoU"] for r in val_seg])}
    names = sorted(k for k in (val_det[-1] if val_det else {}) if k.startswith("erf/"))
    last = max(out.glob("mask-rcnn_srb/2*/vis_data/erf/[0-9]*.npz"), key=lambda p: int(p.stem), default=None)
    labels = (
        {f"erf/{n}": layer_label(result, n) for result in [ERFResult.load(last)] for n in result.layers} if last else {}
    )
    erf = {labels.get(k, k): ([r["step"] for r in val_det if k in r], [r[k] for r in val_det if k in r]) for k in names}
    charts = [
        ("Mask R-CNN: losses", chart(losses, "loss")),
        ("Mask R-CNN: AP over time", chart(ap, "AP50", "epoch", (0, 1))),
        ("Semantic FPN: loss", chart(losses_seg, "loss")),
        ("Semantic FPN: mIoU over time", chart(miou, "mIoU (%)", ylim=(0, 100))),
        ("ERF during the SRB training: pixels with half the mass", chart(erf, "share of pixels", "epoch")),
    ]
    return '<div class="charts">' + "".join(
        f'<figure class="card">{svg}<figcaption>{title}</figcaption></figure>' for title, svg in charts
    ) + "</div>"  # fmt: skip


def build(out: Path, data: Path) -> str:
    """The whole page, from the demo's folder and the data set."""
    truth = quiet_coco(lambda: COCO(str(data / "annotations" / "instances_val2017.json")))
    results = out / "mask-rcnn_srb" / "results"
    boxes = average_precision(truth, results / "coco.bbox.json", "bbox")
    masks = average_precision(truth, results / "coco.segm.json", "segm")
    classes = ["background", *boxes.by_class]
    maps = out / "fpn_srb" / "results" / "maps"
    ious = intersection_over_union(maps, data / "ade" / "annotations" / "validation", classes)
    twins = twin_accuracy(truth, results / "coco.bbox.json")
    seconds = {p.parent.name: json.loads(p.read_text())["seconds"] for p in sorted(out.glob("*/finished.json"))}
    all_iou = float(np.nanmean(list(ious.values())))
    cards = [
        (boxes.plain(), EXPECTED["box"], "box AP50, plain shapes, Mask R-CNN with SRB", boxes.all()),
        (masks.plain(), EXPECTED["mask"], "mask AP50, plain shapes, Mask R-CNN with SRB", masks.all()),
        (plain_mean(ious), EXPECTED["iou"], "mIoU, plain shapes, Semantic FPN with SRB", all_iou),
    ]
    fields = receptive_fields(out)
    environment = ", ".join(f"{html.escape(v)}" for v in versions().values() if v != "not installed")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sterf_plugins demo</title><style>{STYLE}</style></head><body><main>
<h1>Spiking detection and segmentation, and what the networks look at</h1>
<p class="soft">SDT-V3 backbones with half of the tiny model's widths, trained here on rendered 128×128
scenes through stock mmdet and mmseg heads, the detectors from random weights, the segmentor from the detector's backbone. Every number on this page was measured by this run.</p>
<div class="cards">{"".join(f'<div class="card">{number(v, low)}{text}<div class="soft">expected: {low:.2f} or more; all classes {score(whole)}</div></div>' for v, low, text, whole in cards)}
<div class="card"><b>{sum(seconds.values()) / 60:.1f} min</b>training time of all models, some of them at the same time
<div class="soft">{"; ".join(f"{k} {v:.0f} s" for k, v in seconds.items())}</div></div></div>
<h2>Every class</h2>
<p>The twins look the same; only the colour of a small mark elsewhere in the image tells them apart, so each of the
two can reach about half of a plain class's AP by guessing.</p>
{class_table(truth, boxes, masks, ious)}
<h2>The long-range pair</h2>
<p>Of the twins that the detector found, how many got the right name, by the distance of the mark. An interval that holds
0.50 says that they are not told apart; that takes longer training than this demo.</p>
{twin_table(twins)}
<h2>Losses and metrics over time</h2>{curves(out)}
<h2>Do the mixers fire?</h2>
<p>Firing rates of the mixers' hidden spikes after training, over validation images; in brackets, the share of channels that
never fire. A branch whose hidden spikes are silent is a constant.</p>
{firing_table(out)}
<h2>Effective receptive fields before and after training</h2>
<p>Mean absolute gradient of one position of a feature level with respect to the input, over validation images; trained: {TRAINED}.
The raster layout of the released code mixes raster neighbours instead of channels: it is what spreads SRB's early fields
over the image.</p>
{field_picture(fields)}
<h2>Detections</h2><p class="soft">First: ground truth. Second: predictions with a score of at least {SCORE}, which is beside the name.</p>
{pair_figures(draw_detections(truth, results / "coco.segm.json", data / "val2017", 9))}
<h2>Segmentation</h2><p class="soft">First: ground truth. Second: prediction.</p>
{pair_figures(draw_segmentations(maps, data, classes, 6))}
<h2>How it was made</h2>
<p><code>make demo</code>: {len(truth.dataset["images"])} validation scenes; configs in <code>configs/shapes/</code>; logs,
checkpoints and <code>.npz</code> maps beside this file. {environment}.</p>
</main></body></html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the demo's trainings; the report is written there")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="default: data/shapes")
    args = parser.parse_args()
    path = args.out / "report.html"
    fields = receptive_fields(args.out)
    if not fields:
        raise ValueError(f"{args.out} has no trainings of the demo; `make demo` makes them.")
    mixer_picture(fields, args.out / "erf_mixers.png")
    with replacing(path) as partial:
        partial.write_text(build(args.out, args.data))
    print(f"report: {path} ({path.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    console.run_tool(main)
