"""One self-contained HTML page of the tracking demo's results: numbers, plots, followed objects, losses, firing rates.

python tools/demo_tracking_report.py work_dirs/demo_tracking --data data/tracking
"""

import argparse
import base64
import html
import io
import json
from pathlib import Path

from sterf_plugins.cli.begin import begin

begin(openmmlab=True)

import cv2
import demo_tracking as demo
from PIL import Image

from sterf_plugins.cli import console
from sterf_plugins.cli.demo.page import STYLE, chart, number, scalars, table
from sterf_plugins.cli.demo.steps import last_checkpoint
from sterf_plugins.cli.loading import build_config, load_weights
from sterf_plugins.cli.versions import versions
from sterf_plugins.erf.figures.sheet import NARROW, WIDTH, embedded, pixels
from sterf_plugins.erf.figures.wording import digits
from sterf_plugins.files import replacing
from sterf_plugins.firing import FiringRates
from sterf_plugins.openmmlab.configs.reading import load_config
from sterf_plugins.tracking import Follower
from sterf_plugins.tracking.box_metrics import mean_curves
from sterf_plugins.tracking.charts import draw_curves
from sterf_plugins.tracking.results import evaluate, read_attributes, read_labels
from sterf_plugins.tracking.sequences import LAYOUTS, find_sequences

TRACKERS = (*demo.MIXERS, demo.STAY)
WATCHED = 20  # images over which spikes are counted
FILM_STEP = 2  # of the video's pictures, every so many are on the page


def cards(out: Path) -> str:
    """The numbers beside those that are expected, as HTML; each is the lower one of the two layouts, and the higher one of what stays."""
    numbers = [json.loads((out / f"compared_{layout}" / "numbers.json").read_text())["toolkit"] for layout in LAYOUTS]
    found = [
        (min(n[mixer][key] for n in numbers), low, f"{key}, {words}")
        for mixer, words in demo.MIXERS.items()
        for key, low in demo.EXPECTED.items()
    ]
    shown = "".join(
        f'<div class="card">{number(value, low)}{html.escape(text)}<div class="soft">expected: {low:g} or more</div></div>'
        for value, low, text in found
    )
    stay, limit = max(n[demo.STAY]["AUC"] for n in numbers), demo.STAY_LIMIT
    return (
        f"{shown}<div class='card'><b>{digits(stay)}</b>AUC, {demo.STAY}<div class='soft'>at most {limit:g}</div></div>"
    )


def numbers_table(out: Path, data: Path, layout: str) -> str:
    """The numbers of all trackers on a layout, AUC / PR by attribute, and both plots, as HTML."""
    protocols = json.loads((out / f"compared_{layout}" / "numbers.json").read_text())
    keys = ("AUC", "PR", "NPR", "OP50", "OP75")
    rows = [
        [f"{tracker}, {protocol}", *(f"{found[tracker][key]:.1f}" for key in keys)]
        for tracker in TRACKERS
        for protocol, found in protocols.items()
    ]
    labels = read_labels(data / layout, layout)
    curves = {name: evaluate(demo.results_of(out, name, layout), labels) for name in TRACKERS}
    means = {name: mean_curves(found.values()) for name, found in curves.items()}
    note = f"{len(labels)} sequences, protocol toolkit"
    wide, narrow = (embedded(pixels(draw_curves(means, note, page))) for page in (WIDTH, NARROW))
    plots = (
        f'<figure><picture><source media="(max-width: 860px)" srcset="{narrow}"><img class="fields" src="{wide}" '
        f'alt="Success and precision of {", ".join(means)} in the layout of {layout}, by threshold"></picture></figure>'
    )
    groups = {"all": list(labels)} | read_attributes(data / layout / "attributes.txt", labels)
    by_attribute = []
    for attribute, names in groups.items():
        found = [mean_curves(curves[tracker][name] for name in names).numbers() for tracker in TRACKERS]
        by_attribute.append([attribute, str(len(names)), *(f"{n['AUC']:.1f} / {n['PR']:.1f}" for n in found)])
    head = ["attribute", "sequences", *(f"{tracker}, AUC / PR" for tracker in TRACKERS)]
    return table(["tracker, protocol", *keys], rows) + table(head, by_attribute) + plots


def moving(video: Path) -> str:
    """The video as an animated picture, since browsers do not play every encoding of MP4."""
    reader, frames = cv2.VideoCapture(str(video)), []
    while (read := reader.read())[0]:
        frames.append(Image.fromarray(read[1][..., ::-1]))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[FILM_STEP::FILM_STEP], duration=80, loop=0, quality=60
    )
    code = base64.b64encode(buffer.getvalue()).decode()
    words = "the event images with the found and the labelled box around the object, and beside them the scores"
    return f'<figure><img class="fields" alt="{words}" src="data:image/webp;base64,{code}"></figure>'


def losses(out: Path) -> str:
    """Charts of losses and overlap during the trainings, as HTML."""
    rows = {mixer: [r for r in scalars(out / mixer) if "loss" in r] for mixer in TRACKERS[:-1]}
    charts = [
        (
            title,
            chart(
                {mixer: ([r["step"] for r in found], [r[key] for r in found]) for mixer, found in rows.items()}, label
            ),
        )
        for key, title, label in (
            ("loss", "Loss of the trainings", "loss"),
            ("iou", "Overlap with the target in training pairs", "intersection over union"),
        )
    ]
    figures = "".join(f'<figure class="card">{svg}<figcaption>{title}</figcaption></figure>' for title, svg in charts)
    return f'<div class="charts">{figures}</div>'


def firing(out: Path, data: Path) -> str:
    """How much the neurons of each tracker fire while it follows a test sequence, as HTML."""
    (sequence, *_) = find_sequences(data / "fe108", "fe108", "test")
    rows = []
    for mixer in TRACKERS[:-1]:
        loaded = build_config(load_config(str(demo.config_of(mixer))), mixer)
        load_weights(loaded, str(last_checkpoint(out / mixer)))
        network = loaded.network
        follower = Follower(network, sequence.image(0), sequence.boxes[0], *loaded.region_sizes)
        with FiringRates(network) as rates:
            for frame in range(1, min(len(sequence), WATCHED)):
                follower.step(sequence.image(frame))
        hidden = [layer for name, layer in rates.layers.items() if name.endswith("mixer.spike2")]
        silent = [name for name, layer in rates.layers.items() if layer.silent]
        rows.append(
            [
                mixer,
                f"{sum(p.numel() for p in network.parameters()):,}",
                digits(rates.rate),
                ", ".join(digits(layer.rate) for layer in hidden) or "–",
                f"{len(silent)} of {len(rates.layers)} {html.escape(', '.join(silent))}",
            ]
        )
    return table(["tracker", "parameters", "firing rate", "hidden spikes of the mixers", "silent layers"], rows)


def build(out: Path, data: Path) -> str:
    """The whole page, from the demo's folder and the data sets."""
    seconds = {p.parent.name: json.loads(p.read_text())["seconds"] for p in sorted(out.glob("*/finished.json"))}
    made = {layout: json.loads((data / layout / "tracking.json").read_text()) for layout in LAYOUTS}
    parts = "".join(
        f"<h2>Test sequences in the layout of {layout}</h2>{numbers_table(out, data, layout)}" for layout in LAYOUTS
    )
    environment = ", ".join(html.escape(v) for v in versions().values() if v != "not installed")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sterf_plugins tracking demo</title><style>{STYLE}</style></head><body><main>
<h1>Following a shape in the events of a camera</h1>
<p class="soft">Small SDTracks, trained here from random weights on {made["fe108"]["train"]} rendered recordings of {made["fe108"]["frames"]} images, and tested
on others. The numbers on the cards are per cent by the MATLAB toolkit's rules, the worse of the two layouts. Every number on this page was measured by this run.</p>
<div class="cards">{cards(out)}
<div class="card"><b>{sum(seconds.values()) / 60:.1f} min</b>training time of both trackers
<div class="soft">{"; ".join(f"{k} {v:.0f} s" for k, v in seconds.items())}</div></div></div>
{parts}
<h2>A recording, followed</h2>
<p>Left: event image with the search region (grey), what the tracker says (yellow) and the label (green). Right: scores of the search
region. Made from the event file by <code>tools/track.py</code>; the video is <a href="followed.mp4">followed.mp4</a>.</p>
{moving(out / "followed.mp4")}
<h2>Losses</h2>{losses(out)}
<h2>Do the neurons fire?</h2>
<p>Spikes over the largest count, while {WATCHED} images of a test sequence are followed. Of a silent layer at least 99 % of the channels never fire.</p>
{firing(out, data)}
<h2>How it was made</h2>
<p><code>make demo-tracking</code>: configs in <code>configs/sd_track_rendered/</code>; logs, checkpoints, boxes and tables beside this file. {environment}.</p>
</main></body></html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the demo's folder; the page is written there")
    parser.add_argument("--data", type=Path, default=Path("data/tracking"), help="default: %(default)s")
    args = parser.parse_args()
    path = args.out / "report.html"
    with replacing(path) as partial:
        partial.write_text(build(args.out, args.data))
    print(f"page: {path} ({path.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    console.run_tool(main)
