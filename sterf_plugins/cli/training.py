"""Shared by the training and test tools: command-line options, and configs that fit this machine."""

import argparse
import ast
import gc
import io
import os
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.nn  # imported before any process group exists: default arguments would keep it alive
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner

from ..checkpoints import state_dict_of
from ..checkpoints.reading import averaged_beside
from ..files import replacing
from ..openmmlab.configs.adapt import INTERFACES, LOG, swap_backbone
from ..openmmlab.configs.data_checks import check_data
from ..openmmlab.configs.image_checks import other_images
from ..openmmlab.configs.loop_checks import check_loops
from ..openmmlab.configs.model_checks import check_model
from ..openmmlab.configs.reading import check_names, load_config, merge_options, revert_sync_bn
from ..openmmlab.configs.segmentation_checks import check_segmentation_data
from ..openmmlab.configs.stem import swap_stem
from ..openmmlab.configs.tracking_checks import check_tracking_data
from ..openmmlab.runtime.checkpoint_files import read_local_or_remote
from .banner import Banner
from .cfg_options import Settings
from .checkpoints import add_checkpoint_option, check_not_published_tracker
from .console import check_writable
from .loading import entries_without_place


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a config: ``--cfg-options``, ``--backbone`` and ``--stem``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Settings,
        metavar="KEY=VALUE",
        help='override settings of the config, such as model.backbone.levels=8, key="[(a,b),(c,d)]" or '
        "key=\"[dict(type='RandomFlip')]\"",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="put this backbone into the config: any timm name, such as sdtv3_tiny_srb",
    )
    parser.add_argument(
        "--interface",
        choices=INTERFACES,
        default="auto",
        help="what fits together --backbone and the stock neck and heads: exact sets their channels and strides, stock puts "
        "small adapters behind the backbone, auto is exact where that is known to be right and stock otherwise",
    )
    parser.add_argument(
        "--stem",
        metavar="NAME",
        help="put this stem into the backbone: covariant (any with one first convolution) or a plugin's (SDT-V3)",
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the stock train and test tools of mmdet and mmseg, and those of ``add_model_options``."""
    add_model_options(parser)
    parser.add_argument("--work-dir", help="folder of logs, checkpoints and results (default: work_dirs/<config>)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    add_checkpoint_option(parser)
    # Old versions of torch.distributed.launch pass --local-rank; torchrun sets the environment variable instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def changed_config(args: argparse.Namespace, tell: Callable[[str], None] = LOG) -> Config:
    """Read the config, apply the changes of ``add_model_options``, and tell what else they have changed.

    Raises:
        ValueError: the config or an option cannot be used.
    """
    config = load_config(args.config)
    config.launcher = args.launcher
    if args.interface != "auto" and not args.backbone:
        raise ValueError(f"--interface {args.interface} says how --backbone NAME is adapted; give that, too.")
    if args.backbone:
        swap_backbone(config, args.backbone, args.interface, tell)
    if args.stem:
        swap_stem(config, args.stem)
    if args.cfg_options:
        merge_options(config, args.cfg_options)
    if not config.get("model"):
        raise ValueError(f"config {args.config!r} has no `model`.")
    _leave_out_hooks(config)
    return config


def read_config(args: argparse.Namespace, tell: Callable[[str], None] = LOG) -> Config:
    """Read the config, apply the command line's changes, and fit it to this machine (BN and gloo without a GPU).

    Args:
        args: what the options of ``add_config_options`` say.
        tell: function that is called with each line about what has been adapted; the log by default.

    Raises:
        ValueError: the config, an option or the work directory cannot be used.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = changed_config(args, tell)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif not config.get("work_dir"):
        config.work_dir = str(Path("work_dirs") / Path(args.config.split("::")[-1]).stem)
    check_writable(Path(config.work_dir), "--work-dir")
    file = Path(config.filename)
    if Path(config.work_dir).resolve() == file.resolve().parent and not _is_record(file):
        raise ValueError(
            f"--work-dir {config.work_dir} is the config's own folder, where the complete config that a training writes "
            f"down would replace it; give another folder."
        )
    if not torch.cuda.is_available():
        _fit_cpu(config, tell)
    return config


def _is_record(file: Path) -> bool:
    """Whether a config is the complete one that a training wrote down: written again it says the same, and loses no comment."""
    if file.suffix != ".py":
        return False
    text, again = file.read_text(encoding="utf-8"), Config.fromfile(file).pretty_text
    comments = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    return not comments and ast.dump(ast.parse(text)) == ast.dump(ast.parse(again))


@contextmanager
def record_kept(config: Config) -> Iterator[None]:
    """The complete config that a training wrote into the work directory stays; mmengine writes that of a test in its place."""
    record = Path(config.work_dir, Path(config.filename).name)
    before = record.read_bytes() if record.is_file() else None
    try:
        yield
    finally:
        if before is not None and is_main_process():
            with replacing(record) as partial:
                partial.write_bytes(before)


def _leave_out_hooks(config: Config) -> None:
    """Remove every default hook that is set to ``None``; mmengine itself allows ``None`` for its own six only."""
    mmengine_hooks = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
    hooks = config.get("default_hooks") or {}
    for name in [n for n, hook in hooks.items() if hook is None and n not in mmengine_hooks]:
        del hooks[name]


def _fit_cpu(config: Config, tell: Callable[[str], None]) -> None:
    """Replace SyncBN and NCCL, which need a GPU, by BN and gloo; mmengine's own launcher would require a GPU."""
    count = revert_sync_bn(config)
    if count:
        tell(f"no GPU: {count} SyncBN settings of the model become BN")
    if config.launcher != "pytorch":
        return
    torch.distributed.init_process_group("gloo")
    config.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )


def check_config(config: Config, *phases: str) -> None:
    """Look for users' commonest mistakes before anything is built.

    Args:
        config: a complete config, as ``read_config`` returns it.
        *phases: "train", "val" and "test", as far as the tool needs their data.

    Raises:
        ValueError: a data set is missing, empty or not in the format that its class reads, or parts of the config do not
            fit together; the message has the setting that mends it.
    """
    LOG("config and data sets are checked")
    check_names(config)
    check_data(config, *phases)
    check_segmentation_data(config, *phases)
    check_tracking_data(config, *phases)
    check_model(config, *phases)
    check_loops(config, *phases)


def build_runner(config: Config, adapted: Sequence[str] = ()) -> Runner:
    """Build the runner that a complete config names, as ``read_config`` returns it and ``check_config`` has checked it.

    Args:
        config: the config.
        adapted: lines about what was adapted, for the banner.
    """
    runner = RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)
    if isinstance(runner.model, Mapping):  # FlexibleRunner would build it only when training starts
        runner.model = MODELS.build(runner.model)
    runner.register_hook(_NoConfigOfCheckpoint())
    runner.register_hook(Banner(adapted))
    LOG("the model is built; the data sets are read")
    return runner


class _NoConfigOfCheckpoint(Hook):
    """Takes the text of the config out of a loaded checkpoint.

    mmengine runs that text when a training is resumed, to look for a setting that only mmcv 1 wrote.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remove the entry from the loaded checkpoint; the file keeps it."""
        checkpoint.get("meta", {}).pop("config", None)


def close_processes() -> None:
    """Wait for the other processes of a distributed run, then end the process group and its threads.

    A process that exits while gloo's threads run may abort. The threads end with the last reference to the process
    group; a DDP model holds one, so drop the runner before.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        for _ in range(5):  # FSDP's tensors are freed after two rounds only
            if not gc.collect():
                break
        torch.distributed.destroy_process_group()


def check_checkpoint(runner: Runner, path: str, strict: bool) -> None:
    """Compare a checkpoint's keys with the runner's model before they are loaded.

    Args:
        runner: the runner whose model will load the checkpoint.
        path: checkpoint file.
        strict: refuse a checkpoint that lacks an entry of the model, has it in another shape, or has more entries in
            a part of the model (for testing); otherwise refuse only one without any fitting entry, since fine-tuning changes heads.

    Raises:
        ValueError: the file is no checkpoint, or does not fit.
    """
    checkpoint = read_local_or_remote(path)
    check_not_published_tracker(checkpoint, path)
    state = state_dict_of(checkpoint)
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    own = model.state_dict()
    fitting = [k for k in own if k in state and getattr(state[k], "shape", None) == own[k].shape]
    lacking = [k for k in own if k not in fitting]
    print_log(
        f"checkpoint {path}: {len(fitting)} of the model's {len(own)} entries fit, "
        f"{len(state) - len(fitting)} entries are not used",
        logger="current",
    )
    for line in (*averaged_beside(checkpoint), *(other_images(runner.cfg, checkpoint) if strict else ())):
        print_log(f"checkpoint {path}: {line}", logger="current")
    surplus = entries_without_place(state, own)
    if strict and surplus and not lacking:
        raise ValueError(
            f"checkpoint {path} does not fit the model: it has {len(surplus)} entries more in parts of the model, such "
            f"as {', '.join(surplus[:3])}. Give the config that the checkpoint was trained with."
        )
    if not fitting or (strict and lacking):
        raise ValueError(
            f"checkpoint {path} does not fit the model: {len(lacking)} of {len(own)} entries are missing or of another "
            f"shape, such as {', '.join(lacking[:3])}. Give the config that the checkpoint was trained with "
            f"(--backbone and --cfg-options included)."
        )
