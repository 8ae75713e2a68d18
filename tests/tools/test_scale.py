"""Killed trainings, two processes against one, and the options that only change how a model computes."""

import argparse
import importlib.util
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
TRACKER = ROOT / "configs" / "covariant" / "tracking" / "track_li-rf_events48.py"

# Forks trainings, and kills each one while it writes a checkpoint.
KILL = """
import json, os, runpy, signal, sys, time
from pathlib import Path
work, rounds, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

def newest():
    return max([0, *(int(p.stem.split("_")[1]) for p in work.glob("iter_*.pth"))])

for attempt in range(rounds):
    before = newest()
    child = os.fork()
    if not child:
        sys.argv = command
        sys.stdout = sys.stderr = open(work / f"log{attempt}", "w", buffering=1)
        try:
            runpy.run_path(command[0], run_name="__main__")
        finally:
            sys.stdout.flush()
            os._exit(1)
    deadline, killed = time.time() + 100, False
    while time.time() < deadline and not killed and os.waitpid(child, os.WNOHANG) == (0, 0):
        if newest() > before + attempt % 3 and list(work.glob(".*.partial*")):
            time.sleep(0.002 * (attempt % 4))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed = True
        time.sleep(0.0005)
    half = [p.name for p in work.glob(".*.partial*")]
    print(json.dumps(dict(before=before, killed=killed, half=half, files=sorted(p.name for p in work.glob("iter_*.pth")))))
    if not killed:
        break
"""


@pytest.mark.slow
def test_five_kills_never_cost_the_previous_checkpoint(forked, shapes, tmp_path):
    """With one checkpoint kept, mmengine alone removes it before the next is written."""
    options = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in ("train", "val", "test")]
    options += ["train_dataloader.batch_size=1", "train_cfg.max_iters=100000", "train_cfg.val_interval=100000"]
    options += ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=1"]
    options += ["default_hooks.erf=None"]
    train = [ROOT / "tools" / "train.py", SEGMENTOR, "--work-dir", tmp_path, "--resume", "--cfg-options"]
    result = forked("-c", KILL, tmp_path, 5, *train, *options)
    rounds = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    logs = "".join(p.read_text()[-1500:] for p in sorted(tmp_path.glob("log*"))[-1:])
    assert len(rounds) == 5, result.stderr[-1500:] + logs
    assert all(r["killed"] for r in rounds), logs
    assert sum(bool(r["half"]) for r in rounds) >= 2  # really in the middle of a write
    reached = [max(int(name.split("_")[1].split(".")[0]) for name in r["files"]) for r in rounds]
    for r, now in zip(rounds, reached, strict=True):
        assert now > r["before"]  # each one went on from where the one before it was killed
    for path in tmp_path.glob("iter_*.pth"):
        assert torch.load(path, weights_only=False)["meta"]["iter"] == int(path.stem.split("_")[1])


def test_what_is_resumed_without_a_note(tmp_path):
    import sterf_plugins

    sterf_plugins.setup()
    from sterf_plugins.openmmlab.runtime.atomic_backend import AtomicLocalBackend, latest_checkpoint

    assert latest_checkpoint(tmp_path) is None
    backend = AtomicLocalBackend()
    backend.put(b"1", tmp_path / "iter_1.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_1.pth"))
    backend.remove(tmp_path / "iter_1.pth")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "iter_1.pth")  # still there
    AtomicLocalBackend().put(b"2", tmp_path / "iter_2.pth")
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_2.pth"]
    assert latest_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")  # the note names one that is gone
    (tmp_path / "last_checkpoint").write_text("")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")


FIXED = {  # nothing random, and BatchNorm with fixed statistics: then a batch is the sum of its parts
    "model.backbone.norm_eval": True,
    "model.neck.norm_cfg": None,
    "model.decode_head.norm_cfg": None,
    "train_dataloader.dataset.pipeline.3.prob": 0.0,
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 100,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.erf": None,
    "optim_wrapper.clip_grad.max_norm": 0.05,  # far below the norm
    "optim_wrapper.optimizer.lr": 1e-3,
    "optim_wrapper.optimizer.eps": 1e-3,  # Adam divides by the gradient's size, and would enlarge rounding
    "param_scheduler": None,
}


THREADS_AT_EXIT = """
import os, runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
threads = [(p / "comm").read_text().strip() for p in Path("/proc/self/task").iterdir()]
os.write(1, (" ".join(["threads at exit:", *threads]) + "\\n").encode())  # one write, which another rank's cannot cut in two
"""


def segment(forked, work_dir, shapes, processes: int, *flags, **changes) -> dict:
    """Train the segmentor with a total batch of two; the last checkpoint."""
    options = {f"{p}_dataloader.dataset.data_root": f"{shapes}/ade" for p in ("train", "val", "test")}
    options |= {**FIXED, "train_dataloader.batch_size": 2 // processes, **changes}
    tool = [ROOT / "tools" / "train.py", SEGMENTOR, "--launcher", "pytorch" if processes > 1 else "none"]
    command = [*tool, "--work-dir", work_dir, *flags, "--cfg-options", *(f"{k}={v}" for k, v in options.items())]
    result = forked("-c", THREADS_AT_EXIT, *command, processes=processes)
    assert result.returncode == 0, result.stderr[-3000:]
    threads = [line for line in result.stdout.splitlines() if line.startswith("threads at exit:")]
    assert len(threads) == processes, result.stdout[-2000:]
    assert "gloo" not in " ".join(threads)  # a thread of gloo's that outlives the interpreter may abort the process
    return torch.load(max(work_dir.glob("iter_*.pth")), weights_only=False)


@pytest.mark.slow
def test_one_process_ddp_and_fsdp_train_the_same_weights(forked, shapes, tmp_path):
    one = segment(forked, tmp_path / "one", shapes, 1)
    ddp = segment(forked, tmp_path / "ddp", shapes, 2, "--memory-efficient")
    units = {"strategy.min_num_params": 10_000}
    segment(forked, tmp_path / "fsdp", shapes, 2, "--fsdp", **units, **{"train_cfg.max_iters": 1})
    fsdp = segment(forked, tmp_path / "fsdp", shapes, 2, "--fsdp", "--resume", **units)
    assert fsdp["meta"]["iter"] == 2
    assert not list((tmp_path / "fsdp").glob(".*.partial*"))
    before = torch.load(tmp_path / "one" / "iter_1.pth", weights_only=False)["state_dict"]
    moved = [k for k, v in one["state_dict"].items() if (v - before[k]).abs().max() > 1e-5]
    assert any(k.startswith("backbone.stages.1.") for k in moved)
    for other in (ddp, fsdp):
        assert list(other["state_dict"]) == list(one["state_dict"])
        for name, value in one["state_dict"].items():
            torch.testing.assert_close(other["state_dict"][name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_fsdp_says_what_it_needs():
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.config import Config

    from sterf_plugins.openmmlab.runtime.sharded import shard

    with pytest.raises(ValueError, match=r"start several: bash tools/dist_train\.sh"):
        shard(Config(dict(launcher="none")))
    hooks = dict(erf=dict(type="sterf_plugins.ERFHook"), timer=None)
    with pytest.raises(ValueError, match=r"ERFHook \(erf\) cannot run under FSDP.*default_hooks.erf=None"):
        shard(Config(dict(launcher="pytorch", default_hooks=hooks)))
    config = Config(dict(launcher="pytorch", default_hooks=dict(timer=None), strategy=dict(min_num_params=7)))
    shard(config)
    assert config.runner_type == "FlexibleRunner"
    assert config.strategy == dict(type="sterf_plugins.ShardedStrategy", min_num_params=7)
    config.strategy.type = "DeepSpeedStrategy"
    with pytest.raises(ValueError, match="a strategy of its own, DeepSpeedStrategy"):
        shard(config)


@pytest.fixture(scope="module")
def train_tool():
    spec = importlib.util.spec_from_file_location("train_tool", ROOT / "tools" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(train_tool, config: dict, **flags):
    from mmengine.config import Config

    names = ("erf", "amp", "auto_scale_lr", "resume", "fsdp", "compile", "memory_efficient")
    config = Config(dict(launcher="none", work_dir="nowhere") | config)
    train_tool.prepare(config, argparse.Namespace(**dict.fromkeys(names) | flags))
    return config


def test_checkpoints_are_written_whole_unless_the_config_says_otherwise(train_tool):
    atomic = dict(backend="atomic_local")
    for hooks in ({}, dict(default_hooks=None), dict(default_hooks=dict(timer=dict(type="IterTimerHook")))):
        found = prepared(train_tool, hooks).default_hooks.checkpoint
        assert found == dict(type="CheckpointHook", interval=1, backend_args=atomic)
    given = dict(type="CheckpointHook", interval=7, backend_args=dict(backend="local"))
    assert prepared(train_tool, dict(default_hooks=dict(checkpoint=given))).default_hooks.checkpoint == given
    assert prepared(train_tool, dict(default_hooks=dict(checkpoint=None))).default_hooks.checkpoint is None


def test_options_that_do_not_go_together(train_tool):
    with pytest.raises(ValueError, match="--compile and --fsdp do not go together"):
        prepared(train_tool, {}, fsdp=True, compile=True)
    with pytest.raises(ValueError, match=r"activation_checkpointing keeps nothing: use one"):
        strategy = dict(type="FSDPStrategy", activation_checkpointing=dict(check_fn="x"))
        prepared(train_tool, dict(strategy=strategy), memory_efficient=True)


@pytest.fixture(scope="module")
def videos(event_videos) -> Path:
    return event_videos(10)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(forked, videos, tmp_path):
    """No BN in this network; losses are means, so that gradients of two halves average to those of the whole."""
    options = [f"{p}_dataloader.dataset.data_root={videos}" for p in ("train", "val", "test")]
    options += ["train_cfg.max_epochs=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
    options += ["model.tracker.norm=False", "optim_wrapper.optimizer.type=SGD", "optim_wrapper.optimizer.lr=0.5"]
    for folder, processes, launcher in (("one", 1, "none"), ("two", 2, "pytorch")):
        command = [ROOT / "tools" / "train.py", TRACKER, "--work-dir", tmp_path / folder, "--launcher", launcher]
        settings = ["--cfg-options", *options, f"train_dataloader.batch_size={8 // processes}"]
        result = forked(*command, *settings, processes=processes)
        assert result.returncode == 0, result.stderr[-3000:]
    one, two = (torch.load(tmp_path / n / "epoch_2.pth", weights_only=False)["state_dict"] for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)
    errors = []
    for name in ("one", "two"):
        lines = next((tmp_path / name).glob("2*/vis_data/scalars.json")).read_text().splitlines()
        errors.append(next(e["position_error"] for e in map(json.loads, lines) if "position_error" in e))
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def trained(forked, shapes, work_dir, *flags) -> dict:
    options = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in ("train", "val", "test")]
    options += ["train_dataloader.batch_size=2", "train_cfg.max_iters=1", "train_cfg.val_interval=100"]
    options += ["default_hooks.checkpoint.interval=1", "default_hooks.erf=None"]
    options += [
        "optim_wrapper.optimizer._delete_=True",
        "optim_wrapper.optimizer.type=SGD",
        "optim_wrapper.optimizer.lr=0.1",
    ]
    command = [ROOT / "tools" / "train.py", SEGMENTOR, "--work-dir", work_dir, *flags]
    result = forked(*command, "--cfg-options", *options)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(work_dir / "iter_1.pth", weights_only=False)["state_dict"]


@pytest.mark.slow
def test_memory_efficient_changes_no_number(forked, shapes, tmp_path):
    plain = trained(forked, shapes, tmp_path / "plain")
    other = trained(forked, shapes, tmp_path / "other", "--memory-efficient")
    assert list(plain) == list(other)
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_options_that_find_nothing_to_act_on(monkeypatch):
    import sterf_plugins

    sterf_plugins.setup()
    from torch import nn

    from sterf_plugins.backbones import SDTV3
    from sterf_plugins.openmmlab.runtime.speed import speed_up

    with pytest.raises(ValueError, match="--memory-efficient acts on a backbone of this package"):
        speed_up(nn.Linear(2, 2), memory_efficient=True)
    with pytest.raises(ValueError, match="Linear has none"):
        speed_up(nn.Linear(2, 2), compiled=True)
    model = nn.Module()
    model.backbone = SDTV3("nano", "srb")
    keys = list(model.state_dict())
    compiled = []
    monkeypatch.setattr(SDTV3, "compile", lambda self: compiled.append(self))
    speed_up(model, compiled=True, channels_last=True, memory_efficient=True)
    assert model.backbone.memory_efficient
    assert compiled == [model.backbone]
    assert list(model.state_dict()) == keys


def test_channels_last_for_a_stock_backbone():
    import sterf_plugins

    sterf_plugins.setup()
    import timm
    from torch import nn

    from sterf_plugins.openmmlab.runtime.speed import speed_up

    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = timm.create_model("resnet10t", features_only=True).eval()
    x = torch.randn(2, 3, 64, 64)
    before = model.backbone(x)
    speed_up(model, channels_last=True)
    after = model.backbone(x)
    assert after[-1].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
