"""What the training and test tools share: options, and configs fit for this machine."""

import argparse
import gc
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.nn  # before a process group exists, which its functions' default arguments would hold for good
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner

from ..console import check_writable
from .adapt import swap_backbone, swap_stem
from .configs import check_data, load_config, revert_sync_bn


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Options that the stock train and test tools of mmdet and mmseg share, and ours."""
    parser.add_argument("--work-dir", help="folder of logs, checkpoints and results (default: work_dirs/<config>)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='override settings of the config, such as model.backbone.levels=8 or key="[(a,b),(c,d)]"',
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="put this backbone into the config: any timm name, such as sdtv3_tiny_srb; sets channels and strides",
    )
    parser.add_argument(
        "--stem",
        metavar="NAME",
        help="put this stem into the backbone: covariant (stock ResNets, timm models, SDT-V3) or a plugin's (SDT-V3)",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    # torch.distributed.launch of old passes --local-rank; torchrun sets the environment variable.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def read_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes, fit for this machine.

    Raises:
        ValueError: the config, an option or the work directory cannot be used.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = load_config(args.config)
    config.launcher = args.launcher
    if args.backbone:
        swap_backbone(config, args.backbone)
    if args.stem:
        swap_stem(config, args.stem)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    _leave_out_hooks(config)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif not config.get("work_dir"):
        config.work_dir = str(Path("work_dirs") / Path(args.config.split("::")[-1]).stem)
    check_writable(Path(config.work_dir), "--work-dir")
    if not torch.cuda.is_available():
        _fit_cpu(config)
    return config


def _leave_out_hooks(config: Config) -> None:
    """``default_hooks.NAME=None`` leaves any hook out; mmengine's runners take it for their own six only."""
    own = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
    hooks = config.get("default_hooks") or {}
    for name in [n for n, hook in hooks.items() if hook is None and n not in own]:
        del hooks[name]


def _fit_cpu(config: Config) -> None:
    """SyncBN and NCCL exist on GPUs only, and mmengine's launcher takes a GPU for granted."""
    count = revert_sync_bn(config)
    if count:
        print_log(f"no GPU: {count} SyncBN settings of the model become BN", logger="current")
    if config.launcher != "pytorch":
        return
    torch.distributed.init_process_group("gloo")
    config.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )


def build_runner(config: Config, *phases: str) -> Runner:
    """Check the data sets of the phases, then build the runner that the config names."""
    check_data(config, *phases)
    runner = RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)
    if isinstance(runner.model, Mapping):  # FlexibleRunner builds it at the last moment
        runner.model = MODELS.build(runner.model)
    return runner


def close_processes() -> None:
    """End distributed work together, and gloo's threads, which may abort a process that leaves while they run.

    They end with the last reference to the process group; a DDP model is one, so drop the runner before.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        for _ in range(5):  # FSDP's tensors take two rounds
            if not gc.collect():
                break
        torch.distributed.destroy_process_group()


def check_checkpoint(runner: Runner, path: str, strict: bool) -> None:
    """Compare a checkpoint's keys with the runner's model before they are loaded.

    Args:
        runner: holds the model.
        path: checkpoint file.
        strict: refuse any missing key or other shape (testing); otherwise only a checkpoint without any key in
            common (fine-tuning changes heads).

    Raises:
        ValueError: the file is no checkpoint, or does not fit.
    """
    from mmengine.runner import CheckpointLoader

    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}, not a dict of tensors.")
    state = checkpoint.get("state_dict", checkpoint)
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    own = model.state_dict()
    fitting = [k for k in own if k in state and getattr(state[k], "shape", None) == own[k].shape]
    lacking = [k for k in own if k not in fitting]
    print_log(
        f"checkpoint {path}: {len(fitting)} of the model's {len(own)} entries fit, "
        f"{len(state) - len(fitting)} entries are not used",
        logger="current",
    )
    if not fitting or (strict and lacking):
        raise ValueError(
            f"checkpoint {path} does not fit the model: {len(lacking)} of {len(own)} entries are missing or of another "
            f"shape, such as {', '.join(lacking[:3])}. Give the config that the checkpoint was trained with "
            f"(--backbone and --cfg-options included)."
        )
