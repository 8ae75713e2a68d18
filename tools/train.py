"""Train any mmdet or mmseg config, with a spiking backbone and receptive-field pictures if you like.

    sterf train configs/shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py
    sterf train mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py --backbone sdtv3_tiny_srb --erf

Takes every option of the stock tools/train.py of mmdet and mmseg.
"""

import argparse
import random

from sterf_plugins.cli.begin import OptionParser, begin

begin(openmmlab=True)

from mmengine.device import get_device

from sterf_plugins.cli import console
from sterf_plugins.cli import training as cli
from sterf_plugins.openmmlab.configs.loop_checks import warn_of_rates
from sterf_plugins.openmmlab.configs.resume_checks import check_resume
from sterf_plugins.openmmlab.configs.trial import try_backbone
from sterf_plugins.openmmlab.configs.types import type_name
from sterf_plugins.openmmlab.runtime.atomic_backend import latest_checkpoint
from sterf_plugins.openmmlab.runtime.checkpoint_files import read_local_or_remote
from sterf_plugins.openmmlab.runtime.sharded import shard
from sterf_plugins.openmmlab.runtime.speed import speed_up


def parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__)
    parser.add_argument("config", help="config file, or mmdet::…, mmseg::…, sterf_plugins::…")
    cli.add_config_options(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from the latest checkpoint of the work dir, or from this one; bit-exact on a CPU with 0 workers",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew in a work dir that has checkpoints")
    parser.add_argument("--compile", action="store_true", help="compile the backbone with torch.compile")
    parser.add_argument(
        "--channels-last", action="store_true", help="weights and images channels-last (SDT-V3 always is)"
    )
    parser.add_argument(
        "--memory-efficient",
        action="store_true",
        help="the backbone keeps results of convolutions and products alone for the backward pass, and computes norms "
        "and spikes again; same numbers",
    )
    parser.add_argument(
        "--fsdp",
        action="store_true",
        help="share parameters, gradients and optimizer states out over the processes, for models too large for one GPU",
    )
    parser.add_argument(
        "--erf",
        nargs="?",
        const=1,
        type=int,
        metavar="INTERVAL",
        help="effective receptive fields of the backbone's outputs at every INTERVAL-th validation",
    )
    return parser.parse_args()


def prepare(config, args: argparse.Namespace) -> None:
    """Put the options of this tool into the config."""
    config.default_hooks = config.get("default_hooks") or {}
    hooks = config.default_hooks
    hooks.setdefault("random_state", dict(type="sterf_plugins.RandomStateHook"))
    hooks.setdefault("finite_loss", dict(type="sterf_plugins.FiniteLossHook"))
    hooks.setdefault("silence", dict(type="sterf_plugins.SilenceHook"))
    hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))  # mmengine's default
    if hooks["checkpoint"]:
        hooks["checkpoint"].setdefault("backend_args", dict(backend="atomic_local"))
    if args.erf is not None:
        hooks["erf"] = dict(hooks.get("erf", {}), type="sterf_plugins.ERFHook", interval=args.erf)
    if args.amp:
        if get_device() in ("cpu", "mps"):
            raise ValueError("--amp is mmengine's AmpOptimWrapper, which needs a GPU; leave it out on this machine.")
        wrapper = type_name(config.optim_wrapper)
        if wrapper not in ("OptimWrapper", "AmpOptimWrapper"):
            raise ValueError(f"--amp works with OptimWrapper; the config has {wrapper}.")
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in config.get("auto_scale_lr", {}):
            raise ValueError(
                "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config, N being the total batch "
                "for which its learning rate was chosen."
            )
        config.auto_scale_lr.enable = True
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    if config.get("resume") and not config.get("load_from"):
        config.load_from = latest_checkpoint(config.work_dir)
    if args.fsdp:
        if args.compile:
            raise ValueError("--compile and --fsdp do not go together yet; leave one of them out.")
        shard(config)
    if args.memory_efficient and (config.get("strategy") or {}).get("activation_checkpointing"):
        raise ValueError(
            "--memory-efficient keeps little, and the strategy's activation_checkpointing keeps nothing: use one of them."
        )
    _fix_seed(config)


def _fix_seed(config) -> None:
    """A seed that a resumed run finds again: the config's, the checkpoint's, or a new one that is written down."""
    randomness = dict(config.get("randomness") or {})
    if randomness.get("seed") is None and config.get("resume") and config.get("load_from"):
        checkpoint = read_local_or_remote(config.load_from)
        randomness["seed"] = checkpoint.get("meta", {}).get("seed")
    if randomness.get("seed") is None and config.launcher == "none":
        randomness["seed"] = random.SystemRandom().randrange(2**31)
    if randomness.get("seed") is not None:
        config.randomness = randomness


def _keep_checkpoints(work_dir: str) -> None:
    """Raise ``ValueError`` if a training in this folder would replace the checkpoints of another one."""
    found = latest_checkpoint(work_dir)
    if found:
        raise ValueError(
            f"{work_dir} has checkpoints of a training, such as {found}: give --resume to go on with it, another "
            f"--work-dir to start anew, or --overwrite to replace them."
        )


def main() -> None:
    args = parse_args()
    adapted: list[str] = []
    config = cli.read_config(args, adapted.append)
    if args.resume is None and not config.get("resume") and not args.overwrite:
        _keep_checkpoints(config.work_dir)
    if args.backbone:
        cli.LOG(f"--backbone {args.backbone}: the adapted model is tried on made-up images")
        try_backbone(config, adapted[0])
    prepare(config, args)
    if config.get("resume") and config.get("load_from"):
        check_resume(config, config.load_from)
    elif config.get("resume"):
        cli.LOG(f"--resume: {config.work_dir} has no checkpoint yet, so the training begins anew")
    cli.check_config(config, *(("train", "val") if config.get("val_cfg") else ("train",)))
    runner = cli.build_runner(config, adapted)
    warn_of_rates(config, runner.model)
    speed_up(
        runner.model,
        compiled=args.compile,
        channels_last=args.channels_last,
        memory_efficient=args.memory_efficient,
    )
    if config.get("load_from"):
        cli.check_checkpoint(runner, config.load_from, strict=bool(config.get("resume")))
    runner.train()
    del runner
    cli.close_processes()


if __name__ == "__main__":
    console.run_tool(main, again="the same command and --resume")
