"""Check that a training can be resumed with the config's optimizer: its state, and its settings, are the checkpoint's."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..runtime.checkpoint_files import read_local_or_remote
from .literals import read_assignments
from .types import type_name

# Settings of an optimizer wrapper that a resumed training may have anew; all others come back with the optimizer's state.
FREE = ("type", "clip_grad", "accumulative_counts", "loss_scale", "dtype")
COMPARED = ("optim_wrapper", "param_scheduler")
ENDLESS = 10**9  # what mmengine takes for the end of a schedule without one


def check_resume(config: Config, path: str) -> None:
    """Compare optimizer and schedules of a config with those that a checkpoint was trained with.

    mmengine loads their states by position, and with them all settings: what the config says of learning rates, weight
    decay, parameter groups and schedules does not count. Schedules of other settings are named in the log only, since
    the old ones may be wanted in a longer training.

    Args:
        config: the config of the training to resume.
        path: the checkpoint.

    Raises:
        ValueError: the checkpoint lacks a state that a training resumes from, or has averaged weights and the config does
            not average; the optimizer is of another type or has other settings or parameter groups, or the schedules are
            others. The message names the settings.
    """
    checkpoint = read_local_or_remote(path)
    way_out = f"To start from its weights alone, give --cfg-options load_from={path} without --resume, and another --work-dir."
    _check_complete(config, checkpoint, path, way_out)
    try:
        old = read_assignments(checkpoint["meta"]["cfg"], (*COMPARED, "train_cfg"))
    except (KeyError, TypeError, ValueError, SyntaxError):
        print_log(f"checkpoint {path} has no config that can be read: its optimizer is not compared", "current")
        return
    new = config.to_dict()
    changed = list(_changes(old.get("optim_wrapper"), new.get("optim_wrapper"), "optim_wrapper"))
    if changed:
        raise ValueError(
            f"checkpoint {path} was trained with another optimizer, whose state and settings --resume brings back: "
            f"{'; '.join(changed)}. Set the old value{'s' * (len(changed) > 1)} again, or: {way_out}"
        )
    kinds = [[schedule["type"] for schedule in _listed(side.get("param_scheduler"))] for side in (old, new)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"checkpoint {path} was trained with other schedules, whose states --resume brings back: param_scheduler had "
            f"{', '.join(kinds[0]) or 'none'}, now {', '.join(kinds[1]) or 'none'}. {way_out}"
        )
    for change in _changes(old.get("param_scheduler"), new.get("param_scheduler"), "param_scheduler"):
        print_log(f"--resume goes on with the checkpoint's schedules, whatever the config says: {change}", "current")
    for line in _other_length(checkpoint, old.get("train_cfg") or {}, new.get("train_cfg") or {}):
        print_log(line, "current")


def _other_length(checkpoint: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Lines if a training goes on for longer or shorter than the checkpoint's was to, or not at all.

    Args:
        checkpoint: the checkpoint. Its schedules say when they end; its config need not, after an earlier ``--resume``.
        old: ``train_cfg`` of the checkpoint.
        new: that of the training to resume.
    """
    for name, counter in (("max_iters", "iter"), ("max_epochs", "epoch")):
        before, now = old.get(name), new.get(name)
        if None in (before, now):
            continue
        if checkpoint["meta"].get(counter, 0) >= now:
            yield f"--resume: nothing is left to train, since train_cfg.{name} is {now}; give more to train longer"
        elif before != now:
            states = _listed(checkpoint.get("param_schedulers"), of="last_step")
            ends = sorted({state["end"] for state in states if state.get("end", ENDLESS) < ENDLESS})
            told = f", which end at {' and '.join(map(str, ends))}" if ends else ""
            yield (
                f"--resume trains until train_cfg.{name}={now} instead of {before}. The schedules stay those of the checkpoint"
                f"{told}: after its last change the learning rate stays what it is"
            )


def _check_complete(config: Config, checkpoint: Mapping[str, Any], path: str, way_out: str) -> None:
    """Raise ``ValueError`` if a checkpoint lacks what mmengine would start anew in silence, or swaps averaged weights."""
    needed = ["meta", "optimizer", *(["param_schedulers"] if config.get("param_scheduler") else [])]
    lacking = [name for name in needed if name not in checkpoint]
    if lacking:
        raise ValueError(
            f"checkpoint {path} has no {', '.join(lacking)}, so that no training can be resumed from it (has it been "
            f"published, or saved with save_optimizer=False?). {way_out}"
        )
    hooks = [*(config.get("custom_hooks") or []), *(config.get("default_hooks") or {}).values()]
    if "ema_state_dict" in checkpoint and not any(type_name(hook).endswith("EMAHook") for hook in hooks):
        raise ValueError(
            f"checkpoint {path} has the averaged weights of an EMAHook, from which --resume would train on, since the config "
            f"has no such hook: put it back into custom_hooks. {way_out}"
        )


def _listed(schedules: Any, of: str = "type") -> list[dict]:
    """The schedules of one optimizer or of several, as one list.

    Args:
        schedules: as they are in a config, or in a checkpoint.
        of: a name that each schedule has.
    """
    if isinstance(schedules, dict) and of not in schedules:
        return [schedule for group in schedules.values() for schedule in _listed(group, of)]
    return [schedules] if isinstance(schedules, dict) else list(schedules or [])


def _changes(old: Any, new: Any, key: str) -> Iterator[str]:
    """Each setting below ``key`` that has changed, with its old and its new value."""
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield f"{key} was {old!r}, now {new!r}"
        return
    free = FREE if "optimizer" in old or "optimizer" in new else ()
    for name in [*old, *(n for n in new if n not in old)]:
        if name not in free:
            yield from _changes(old.get(name), new.get(name), f"{key}.{name}")
