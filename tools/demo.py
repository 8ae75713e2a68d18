"""The main job from end to end, sized for two CPU cores (about 5 minutes on idle ones).

    make demo        or        python tools/demo.py [--out work_dirs/demo]

1. renders the shapes data set in COCO and ADE20K format         data/shapes
2. trains Mask R-CNN with an SDT-V3 backbone and SRB mixers, with the ERF hook;
   beside it, in the background, a detector with each mixer, just long enough for pictures of their receptive fields
3. trains Semantic FPN, its backbone starting from the detector's
4. evaluates with pycocotools and mIoU
5. writes one HTML report

Each step is a command that you can run yourself; it is printed. Interrupt it at any time and run it again: finished
steps are skipped, a training goes on from its last checkpoint.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sterf_plugins.cli.demo.steps import Steps, last_checkpoint, say
from sterf_plugins.files import check_claim, claim

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "shapes"
# Networks of this size train no faster with two threads than with one.
STEPS = Steps("demo", ROOT, threads=1)


@dataclass(frozen=True)
class Training:
    """One training of the demo.

    Attributes:
        name: name of its folder in the demo's folder.
        config: file in configs/shapes.
        what: what is trained, for the output.
        options: values of ``--cfg-options``, in which ``{out}`` stands for the demo's folder.
    """

    name: str
    config: str
    what: str
    options: tuple[str, ...] = ()


# Firing rates for the report's table.
RATES = tuple(
    f"default_hooks.firing_rate.{option}"
    for option in ("type=sterf_plugins.FiringRateHook", "input_size=128", "operations=False")
)
# Shorter than the config: one of eight sampled boxes holds an object, not one of two, since a scene has three or four, and the
# mask head, half of the time of an iteration, computes those boxes alone. Box AP50 on the plain shapes is 0.919 after three
# epochs, and 0.922 after four epochs of the config as it is (one seed each).
DETECTION = (*RATES, "model.train_cfg.rcnn.sampler.pos_fraction=0.125")
# 100 iterations of 4 images: enough for a receptive field to have changed, and for the running variance of the mixers'
# BatchNorms to have forgotten its initial value, 1, which is far above the true one and keeps the mixers silent in evaluation.
BRIEF = (
    "train_dataloader.dataset.indices=400",
    "train_dataloader.batch_size=4",
    "train_cfg.max_epochs=1",
    "train_cfg.val_begin=2",
    "param_scheduler.0.end=10",
    "param_scheduler.1.end=1",
)
DETECTOR = Training(
    "mask-rcnn_srb",
    "mask-rcnn_sdtv3-t-srb_fpn_shapes.py",
    "Mask R-CNN with SRB mixers",
    (*DETECTION, "train_cfg.max_epochs=3", "param_scheduler.1.end=3"),
)
SEGMENTOR = Training(
    "fpn_srb",
    "fpn_sdtv3-t-srb_shapes.py",
    "Semantic FPN with SRB mixers, from the detector's backbone",
    (
        "model.backbone.init_cfg.type=Pretrained",
        "model.backbone.init_cfg.checkpoint={out}/mask-rcnn_srb/epoch_3.pth",
        "train_cfg.max_iters=350",
        "param_scheduler.1.end=350",
    ),
)
COMPARED = tuple(
    Training(
        f"fields_{name}",
        f"mask-rcnn_sdtv3-t-{mixer}_fpn_shapes.py",
        f"a short training of a detector with {name}, for the ERF picture",
        BRIEF + DETECTION + extra,
    )
    for name, mixer, extra in (
        ("conv", "conv", ()),
        ("mlpixer", "mlpixer", ()),
        ("srb", "srb", ()),
        ("srb-raster", "srb", ("model.backbone.layout=raster",)),
    )
)


def train(training: Training, out: Path) -> None:
    """Run or resume one training, unless it ran to its end."""
    options = [option.format(out=out) for option in training.options]
    STEPS.train(out / training.name, CONFIGS / training.config, options)


def evaluate(training: Training, out: Path) -> None:
    """Write the final checkpoint's predictions as COCO results, or as label maps."""
    folder = out / training.name
    results, checkpoint = folder / "results", last_checkpoint(folder)
    script = ROOT / "tools" / "test.py"
    command: list[str | Path] = [script, CONFIGS / training.config, checkpoint, "--work-dir", results]
    if training is SEGMENTOR:
        command += ["--out", results / "maps", "--overwrite"]
    else:
        command += ["--cfg-options", f"test_evaluator.outfile_prefix={results / 'coco'}"]
    STEPS.once(results / "of.txt", checkpoint, *command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "demo", help="default: work_dirs/demo")
    parser.add_argument(
        "--only-fields", action="store_true", help="run the trainings of the background alone; step 2 starts this"
    )
    args = parser.parse_args()
    out, data = args.out.resolve(), ROOT / "data" / "shapes"
    if args.only_fields:
        for training in COMPARED:
            say(training.what)
            train(training, out)
        return
    start = time.time()
    output = out / "fields.log"
    check_claim(out, "demo", ("report.html", "erf_mixers.png", "erf_mixers.pdf", output.name))
    claim(out, "demo")

    def begin(step: int, what: str) -> None:
        say(f"[{step}/5] {what}   ({time.time() - start:.0f} s so far)")

    begin(1, "data: 800 + 120 rendered scenes")
    STEPS.run(ROOT / "tools" / "dataset_tools" / "make_shapes.py", data, "--num-val", "120")
    begin(2, f"{DETECTOR.what}; in the background, {len(COMPARED)} short trainings for the ERF picture")
    with STEPS.beside(output, Path(__file__).resolve(), "--out", out, "--only-fields"):
        train(DETECTOR, out)
        begin(3, SEGMENTOR.what)
        train(SEGMENTOR, out)
    begin(4, "evaluation")
    for training in (DETECTOR, SEGMENTOR):
        evaluate(training, out)
    begin(5, "report")
    STEPS.run(ROOT / "tools" / "demo_report.py", out, "--data", data)
    say(f"finished after {time.time() - start:.0f} s. Open {out / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo: interrupted; run the same command again to go on")
