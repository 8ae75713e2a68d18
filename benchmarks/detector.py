"""A whole training iteration of Mask R-CNN on the CPU: SDT-V3 tiny SRB backbones against ResNet-18.

The stock config's detector with ResNet-18, the same with our backbone, and the published row with spiking neck and
heads; ours without and with memory_efficient, which computes norms and spikes again in the backward pass. All sides
get the same images, boxes and masks. An iteration is forward pass, losses, backward pass and SGD step; the sides take
turns. Printed are medians, ratios to ResNet-18, and the growth of the peak resident set over one iteration in a process
of its own.

    python benchmarks/detector.py --size 512 --batch 2 --threads 2 --out benchmarks/results/detector_cpu.json
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from saved import write
from training_step import peak_growth

import sterf_plugins

sterf_plugins.setup()

from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from sterf_plugins.openmmlab.configs.adapt import swap_backbone  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.runtime.speed import speed_up  # noqa: E402

STOCK = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
ROW = "sterf_plugins::mask_rcnn/mask-rcnn_sdtv3-t-srb_spikefpn_ms-1x_coco.py"
# side -> (config, backbone to put into it or None for its own, memory_efficient)
SIDES = {
    "ResNet-18": (STOCK, "resnet18", False),
    "SDT-V3 tiny SRB": (STOCK, "sdtv3_tiny_srb", False),
    "SDT-V3 tiny SRB, memory_efficient": (STOCK, "sdtv3_tiny_srb", True),
    "SDT-V3 tiny SRB, spiking neck and heads": (ROW, None, False),
    "SDT-V3 tiny SRB, spiking neck and heads, memory_efficient": (ROW, None, True),
}


def build(side: str) -> torch.nn.Module:
    """The detector of one side, in training mode, with random weights."""
    name, backbone, efficient = SIDES[side]
    config = load_config(name)
    if backbone:
        swap_backbone(config, backbone)
    config.model.backbone.pop("init_cfg", None)
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    if efficient:
        speed_up(model, memory_efficient=True)
    return model


def iteration(model: torch.nn.Module, batch: dict) -> float:
    """Run one SGD step and return its seconds."""
    torch.manual_seed(1)  # the samplers' choice of boxes
    start = time.perf_counter()
    data = model.data_preprocessor(batch, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.add_(p.grad, alpha=-1e-5)
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def data(size: int, batch: int) -> dict:
    """Random images with eight boxes and masks each, as a dataloader gives them."""
    return demo_mm_inputs(batch, (3, size, size), [8] * batch, num_classes=80, with_mask=True)


def peak(args, side: str) -> float:
    """Growth of the peak resident set over one iteration, in MiB, measured in a fresh process."""
    command = [sys.executable, __file__, "--only-memory", side]
    for name in ("size", "batch", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    p.add_argument("--only-memory", choices=list(SIDES), help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    register_all_modules(init_default_scope=True)
    batch = data(args.size, args.batch)
    if args.only_memory:
        model = build(args.only_memory)
        iteration(model, data(128, 1))
        print(peak_growth(lambda: iteration(model, batch)))
        return
    models = {side: build(side) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for i in range(args.repeats + 1):
        for side, model in models.items():
            seconds = iteration(model, batch)
            if i:  # the first is warm-up
                times[side].append(seconds)
    seconds = {side: statistics.median(values) for side, values in times.items()}
    memory = {side: peak(args, side) for side in SIDES}
    first = next(iter(SIDES))
    result = dict(
        what=f"training iteration of Mask R-CNN, {args.size}x{args.size}, batch {args.batch}, CPU",
        threads=args.threads,
        torch=torch.__version__,
        machine=platform.machine(),
        seconds=seconds,
        time_over_resnet18={side: s / seconds[first] for side, s in seconds.items()},
        peak_mib=memory,
        memory_over_resnet18={side: m / memory[first] for side, m in memory.items()},
    )
    print(json.dumps(result, indent=1))
    if args.out:
        write(args.out, result)


if __name__ == "__main__":
    main()
