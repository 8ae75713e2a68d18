"""Evaluate a checkpoint with any mmdet or mmseg config.

    sterf test configs/shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py work_dirs/…/epoch_4.pth --show-dir shown

Takes every option of the stock tools/test.py of mmdet and mmseg. A checkpoint that does not fit is refused.
"""

import argparse
from copy import deepcopy
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin(openmmlab=True)

from mmengine.config import ConfigDict

from sterf_plugins.cli import console
from sterf_plugins.cli import training as cli
from sterf_plugins.files import check_new
from sterf_plugins.openmmlab.configs.loop_checks import check_complete
from sterf_plugins.openmmlab.configs.types import type_name


def parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__)
    parser.add_argument("config", help="config file, or mmdet::…, mmseg::…, sterf_plugins::…")
    parser.add_argument("checkpoint", help="checkpoint file")
    cli.add_config_options(parser)
    parser.add_argument("--out", help="mmdet: pickle file of the predictions; mmseg: folder of the predicted maps")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out names if it exists")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="folder, under the work dir, of pictures with predictions")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds that --show shows a picture")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


def prepare(config, args: argparse.Namespace) -> None:
    """Put the options of this tool into the config."""
    config.load_from = args.checkpoint
    if args.show or args.show_dir:
        _draw(config, args)
    if args.out:
        check_new(args.out, args.overwrite)
        _write_predictions(config, args.out)
    if args.tta:
        _augment(config)


def _draw(config, args: argparse.Namespace) -> None:
    hook = config.get("default_hooks", {}).get("visualization")
    if not hook:
        raise ValueError("--show and --show-dir need default_hooks.visualization in the config.")
    if args.show_dir and not config.get("visualizer"):
        raise ValueError("--show-dir needs a visualizer in the config.")
    if args.show and args.show_dir and config.get("default_scope") == "mmseg":
        raise ValueError("--show and --show-dir: mmseg stores no pictures while it shows them; give one of them.")
    hook["draw"] = True
    hook["show"] = args.show
    hook["wait_time"] = args.wait_time
    if config.get("default_scope") == "mmseg":
        hook["interval"] = 1
    if args.show_dir:
        if config.get("default_scope") == "mmseg":
            config.visualizer["save_dir"] = str(Path(config.work_dir, args.show_dir))
        else:
            hook["test_out_dir"] = args.show_dir


def _write_predictions(config, out: str) -> None:
    evaluators = config.test_evaluator
    if isinstance(evaluators, dict):
        evaluators = evaluators.get("metrics", evaluators)
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if config.get("default_scope") == "mmseg":
        evaluators[0].update(output_dir=out, keep_results=True)  # each of mmseg's metrics can write them
        return
    if config.get("default_scope") != "mmdet":
        raise ValueError(
            "--out is for models of mmdet and mmseg; a tracker writes its boxes by test_evaluator.results=DIR."
        )
    if not out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out is {out!r}; for mmdet it must end in .pkl or .pickle.")
    config.test_evaluator = [*evaluators, dict(type="DumpDetResults", out_file_path=out)]


def _augment(config) -> None:
    """The config's own test-time augmentation; mmdet's default of flips where it has none."""
    detector = config.get("default_scope") != "mmseg"
    if detector and ("mask_head" in config.model or "mask_head" in config.model.get("roi_head", {})):
        raise ValueError("--tta: mmdet merges boxes, not masks; give the config of a detector without a mask head.")
    lacking = [name for name in ("tta_model", "tta_pipeline") if name not in config]
    if lacking and not detector:
        raise ValueError(
            f"--tta: the config of a segmentor must have tta_model and tta_pipeline, and this one lacks {' and '.join(lacking)}; "
            f"mmseg's own configs have both."
        )
    if "tta_model" not in config:
        config.tta_model = dict(
            type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        )
    dataset = config.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    if "pipeline" not in dataset:
        raise ValueError(
            f"--tta changes images in a data set's pipeline, and {type_name(dataset)} has none; leave it out."
        )
    if "tta_pipeline" not in config:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
        own = dataset.pipeline[-1].get("meta_keys", ())  # what the metric looks at
        flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
        pack = [dict(type="PackDetInputs", meta_keys=tuple(dict.fromkeys((*keys, *own))))]
        config.tta_pipeline = [*deepcopy(dataset.pipeline)[:-1], dict(type="TestTimeAug", transforms=[flips, pack])]
    dataset.pipeline = config.tta_pipeline
    config.model = ConfigDict(**config.tta_model, module=config.model)


def main() -> None:
    args = parse_args()
    adapted: list[str] = []
    config = cli.read_config(args, adapted.append)
    check_complete(config, "test")  # before the options change its parts
    prepare(config, args)
    cli.check_config(config, "test")
    with cli.record_kept(config):
        runner = cli.build_runner(config, adapted)
    cli.check_checkpoint(runner, args.checkpoint, strict=True)
    runner.test()
    del runner
    cli.close_processes()


if __name__ == "__main__":
    console.run_tool(main)
