"""From recordings of an event camera to a tracker and its numbers, sized for two CPU cores (under ten minutes).

    make demo-tracking        or        python tools/demo_tracking.py [--out work_dirs/demo_tracking]

1. renders recordings in the layouts of FE108 and VisEvent              data/tracking
2. makes event images of them
3. trains a small SDTrack with convolutions, and one with SRB mixers, on the sequences of FE108's layout, from random weights
4. tests both on the test sequences of either layout, beside a tracker that stays at the first box
5. writes success and precision plots, a video, and one HTML page

Each step is a command that you can run yourself; it is printed. Interrupt it at any time and run it again: finished
steps are skipped, a training goes on from its last checkpoint, a test with its next sequence.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from sterf_plugins.cli.demo.steps import Steps, last_checkpoint, say
from sterf_plugins.files import check_claim, claim
from sterf_plugins.tracking.results import read_labels
from sterf_plugins.tracking.sequences import LAYOUTS, write_boxes

ROOT = Path(__file__).resolve().parents[1]
TOOLS, CONFIGS = ROOT / "tools", ROOT / "configs" / "sd_track_rendered"
STEPS = Steps("demo_tracking", ROOT)
MIXERS = {"conv": "convolutions", "srb": "SRB mixers"}
STAY = "stay at the first box"
# lowest numbers of both trackers on the test sequences of each layout, where all is well
EXPECTED = {"AUC": 60.0, "PR": 90.0}
STAY_LIMIT = 25.0  # AUC that a tracker without eyes should not exceed
DATASETS = {"fe108": "sterf_plugins.FE108Dataset", "visevent": "sterf_plugins.VisEventDataset"}
# Only FE108's layout is trained on; VisEvent's has two training sequences, to show where they are.
SEQUENCES = {"fe108": ("--train", "24", "--test", "12"), "visevent": ("--train", "2", "--test", "8")}
TINY_SEQUENCES = {layout: ("--train", "2", "--test", "2", "--frames", "20") for layout in LAYOUTS}
TINY = ("train_cfg.max_iters=2", "train_dataloader.batch_size=2", "default_hooks.logger.interval=1")


def config_of(mixer: str) -> Path:
    return CONFIGS / f"sdtrack-small-1x4_{mixer}_rendered.py"


def results_of(out: Path, tracker: str, layout: str) -> Path:
    """The result folder of a tracker."""
    return out / tracker.replace(" ", "-") / f"results_{layout}"


def make_data(data: Path, tiny: bool) -> None:
    """Recordings and event images of both layouts."""
    for layout, numbers in (TINY_SEQUENCES if tiny else SEQUENCES).items():
        folder = data / layout
        STEPS.run(TOOLS / "dataset_tools" / "make_tracking.py", folder, "--layout", layout, *numbers)
        STEPS.run(TOOLS / "dataset_tools" / "make_gtp.py", folder, "--layout", layout)


def test(mixer: str, layout: str, data: Path, out: Path) -> None:
    """Follow the test sequences of a layout, and write the boxes."""
    folder, results = out / mixer, results_of(out, mixer, layout)
    checkpoint = last_checkpoint(folder)
    options = dict(type=DATASETS[layout], data_root=data / layout, results=results)
    settings = [f"test_dataloader.dataset.{key}={value}" for key, value in options.items()]
    command: list[str | Path] = [
        TOOLS / "test.py",
        config_of(mixer),
        checkpoint,
        "--work-dir",
        folder / f"test_{layout}",
    ]
    STEPS.once(
        folder / f"tested_{layout}.txt",
        checkpoint,
        *command,
        "--cfg-options",
        *settings,
        f"test_evaluator.results={results}",
    )


def compare(layout: str, data: Path, out: Path) -> dict[str, dict[str, float]]:
    """The numbers of each tracker on a layout's test sequences, after writing plots and tables."""
    for name, boxes in read_labels(data / layout, layout).items():
        write_boxes(results_of(out, STAY, layout) / f"{name}.txt", np.repeat(boxes[:1], len(boxes), 0))
    folder = out / f"compared_{layout}"
    STEPS.run(
        TOOLS / "analysis_tools" / "compare_trackers.py",
        *(f"{tracker}={results_of(out, tracker, layout)}" for tracker in (*MIXERS, STAY)),
        "--data", data / layout, "--layout", layout, "--attributes", data / layout / "attributes.txt", "--per-sequence",
        "--out", folder,
    )  # fmt: skip
    return json.loads((folder / "numbers.json").read_text())["toolkit"]


def film(data: Path, out: Path) -> None:
    """Follow the target of the last test recording, which has a distractor, from its event file and its labels."""
    root = data / "fe108"
    *_, name = read_labels(root, "fe108")
    checkpoint, video = last_checkpoint(out / "srb"), out / "followed.mp4"
    recording = root / "test" / name / "events.aedat4"
    STEPS.once(
        out / "filmed.txt", checkpoint, TOOLS / "track.py", recording, "--config", config_of("srb"), "--checkpoint", checkpoint,
        "--out", video, "--overwrite",
    )  # fmt: skip


def verdict(layout: str, numbers: dict[str, dict[str, float]]) -> str:
    """The numbers beside those that are expected, in a line."""
    parts = []
    for tracker in MIXERS:
        found = [
            f"{key} {numbers[tracker][key]:.1f} ({'below' if numbers[tracker][key] < low else 'at least'} {low:g})"
            for key, low in EXPECTED.items()
        ]
        parts.append(f"{tracker}: {', '.join(found)}")
    stay = numbers[STAY]["AUC"]
    parts.append(f"{STAY}: AUC {stay:.1f} ({'above' if stay > STAY_LIMIT else 'at most'} {STAY_LIMIT:g})")
    return f"{layout}   {'   '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: work_dirs/demo_tracking, or …_tiny")
    parser.add_argument("--data", type=Path, help="default: data/tracking, or …_tiny")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default: %(default)s)")
    parser.add_argument(
        "--tiny", action="store_true", help="few sequences and two iterations, to see that all steps run"
    )
    args = parser.parse_args()
    size = "_tiny" if args.tiny else ""
    out = (args.out or ROOT / "work_dirs" / f"demo_tracking{size}").resolve()
    data = (args.data or ROOT / "data" / f"tracking{size}").resolve()
    start = time.time()
    check_claim(out, "demo_tracking", ("report.html", "followed.mp4"))
    claim(out, "demo_tracking")

    def begin(step: int, what: str) -> None:
        say(f"[{step}/6] {what}   ({time.time() - start:.0f} s so far)")

    begin(1, "recordings and event images")
    make_data(data, args.tiny)
    made = " ".join((data / layout / "tracking.json").read_text() for layout in LAYOUTS)
    for step, (mixer, words) in enumerate(MIXERS.items(), 2):
        begin(step, f"a tracker with {words}")
        options = [f"train_dataloader.dataset.data_root={data / 'fe108'}", f"randomness.seed={args.seed}"]
        options += [f"train_dataloader.dataset.seed={args.seed}", *(TINY if args.tiny else ())]
        STEPS.train(out / mixer, config_of(mixer), options, made)
    begin(4, "tests")
    numbers = {}
    for layout in LAYOUTS:
        for mixer in MIXERS:
            test(mixer, layout, data, out)
        numbers[layout] = compare(layout, data, out)
    begin(5, "a video")
    film(data, out)
    begin(6, "the page")
    STEPS.run(TOOLS / "demo_tracking_report.py", out, "--data", data)
    for layout, found in numbers.items():
        say(verdict(layout, found))
    say(f"finished after {time.time() - start:.0f} s. Open {out / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"demo_tracking: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo_tracking: interrupted; run the same command again to go on")
