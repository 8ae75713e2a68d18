"""The main job from end to end, sized for two CPU cores (about 7 minutes on idle ones).

    make demo        or        python tools/demo.py [--out work_dirs/demo]

1. renders the shapes data set in COCO and ADE20K format         data/shapes
2. trains Mask R-CNN with an SDT-V3 backbone and SRB mixers, with the ERF hook
3. trains Semantic FPN, its backbone starting from the detector's
4. trains a detector with each mixer alike, just long enough for pictures of their receptive fields
5. evaluates with pycocotools and mIoU, and writes one HTML report

Each step is a command that you can run yourself; it is printed. Interrupt it at any time and run it again: finished
steps are skipped, a training goes on from its last checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sterf_plugins.files import check_claim, claim

# GNU OpenMP, which PyTorch's wheels for Linux bring, lets threads spin 300,000 times before they sleep. Beside other
# jobs the spinning takes the cores from the thread that is waited for: with two other jobs on two cores, an iteration
# took 1.04 s instead of 0.29 s; with this value 0.72 s, and 0.31 s on idle cores.
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", **os.environ}

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "shapes"


@dataclass(frozen=True)
class Training:
    """One training of the demo.

    Attributes:
        name: name of its folder in the demo's folder.
        config: file in configs/shapes.
        goal: what is trained, for the output.
        options: values of ``--cfg-options``, in which ``{out}`` stands for the demo's folder.
    """

    name: str
    config: str
    goal: str
    options: tuple[str, ...] = ()


# Firing rates for the report's table.
RATES = tuple(
    f"default_hooks.firing_rate.{option}"
    for option in ("type=sterf_plugins.FiringRateHook", "input_size=128", "operations=False")
)
# 100 iterations of 4 images: enough for a receptive field to have changed, and for the running variance of the mixers'
# BatchNorms to have forgotten its initial value, 1, which is far above the true one and keeps the mixers silent in evaluation.
BRIEF = (
    "train_dataloader.dataset.indices=400",
    "train_dataloader.batch_size=4",
    "train_cfg.max_epochs=1",
    "param_scheduler.0.end=10",
    "param_scheduler.1.end=1",
)
DETECTOR = Training("mask-rcnn_srb", "mask-rcnn_sdtv3-t-srb_fpn_shapes.py", "Mask R-CNN with SRB mixers", RATES)
SEGMENTOR = Training(
    "fpn_srb",
    "fpn_sdtv3-t-srb_shapes.py",
    "Semantic FPN with SRB mixers, from the detector's backbone",
    ("model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint={out}/mask-rcnn_srb/epoch_4.pth"),
)
COMPARED = tuple(
    Training(
        f"fields_{name}",
        f"mask-rcnn_sdtv3-t-{mixer}_fpn_shapes.py",
        f"{name}, for the ERF picture",
        BRIEF + RATES + extra,
    )
    for name, mixer, extra in (
        ("conv", "conv", ()),
        ("mlpixer", "mlpixer", ()),
        ("srb", "srb", ()),
        ("srb-raster", "srb", ("model.backbone.layout=raster",)),
    )
)
TRAININGS = (DETECTOR, SEGMENTOR, *COMPARED)


def say(message: str) -> None:
    """Print a line, in bold on a terminal."""
    print(f"\033[1m{message}\033[0m" if sys.stdout.isatty() else message, flush=True)


def run(*command: str | Path) -> None:
    """Print and run a Python script with its arguments; end the demo if it fails."""
    shown = " ".join(
        str(c.relative_to(ROOT)) if isinstance(c, Path) and c.is_relative_to(ROOT) else str(c) for c in command
    )
    print(f"$ python {shown}", flush=True)
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=ENVIRONMENT)
    if result.returncode:
        sys.exit(f"demo: this step failed with exit code {result.returncode}; run the same command again to go on")


def train(training: Training, out: Path) -> None:
    """Run or resume one training, unless it ran to its end.

    Raises:
        ValueError: the folder is there, and is not of a training with these settings.
    """
    folder, config = out / training.name, CONFIGS / training.config
    options = [option.format(out=out) for option in training.options]
    settings = json.dumps(dict(config=config.read_text(), options=options))
    settings_file, finished = folder / "settings.json", folder / "finished.json"
    if folder.exists() and not (settings_file.is_file() and settings_file.read_text() == settings):
        raise ValueError(
            f"{folder} exists and is not of this training with these settings; move it away, or give another --out."
        )
    if finished.is_file():
        print("done before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings_file.write_text(settings)
    start = time.time()
    extra = ["--cfg-options", *options] if options else []
    run(ROOT / "tools" / "train.py", config, "--work-dir", folder, "--resume", *extra)
    finished.write_text(json.dumps(dict(seconds=time.time() - start)))


def evaluate(training: Training, out: Path) -> None:
    """Write the final checkpoint's predictions as COCO results, or as label maps."""
    folder = out / training.name
    results = folder / "results"
    checkpoint = Path((folder / "last_checkpoint").read_text().strip())
    evaluated = results / "of.txt"  # says which checkpoint the results are of
    if evaluated.is_file() and evaluated.read_text() == f"{checkpoint} {checkpoint.stat().st_mtime}":
        print("done before")
        return
    results.mkdir(exist_ok=True)
    script = ROOT / "tools" / "test.py"
    command: list[str | Path] = [script, CONFIGS / training.config, checkpoint, "--work-dir", results]
    if training is SEGMENTOR:
        command += ["--out", results / "maps", "--overwrite"]
    else:
        command += ["--cfg-options", f"test_evaluator.outfile_prefix={results / 'coco'}"]
    run(*command)
    evaluated.write_text(f"{checkpoint} {checkpoint.stat().st_mtime}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "demo", help="default: work_dirs/demo")
    out = parser.parse_args().out.resolve()
    start = time.time()
    steps = len(TRAININGS) + 3
    check_claim(out, "demo", ("report.html", "erf_mixers.png", "erf_mixers.pdf"))
    claim(out, "demo")

    say(f"[1/{steps}] data: 800 + 120 rendered scenes")
    run(ROOT / "tools" / "dataset_tools" / "make_shapes.py", ROOT / "data" / "shapes", "--num-val", "120")
    for i, training in enumerate(TRAININGS):
        say(f"[{i + 2}/{steps}] {training.goal}   ({time.time() - start:.0f} s so far)")
        train(training, out)
    say(f"[{steps - 1}/{steps}] evaluation   ({time.time() - start:.0f} s so far)")
    for training in (DETECTOR, SEGMENTOR):
        evaluate(training, out)
    say(f"[{steps}/{steps}] report")
    run(ROOT / "tools" / "demo_report.py", out, "--data", ROOT / "data" / "shapes")
    say(f"finished after {time.time() - start:.0f} s. Open {out / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo: interrupted; run the same command again to go on")
