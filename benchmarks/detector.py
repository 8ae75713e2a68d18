"""A whole training iteration of Mask R-CNN: SDT-V3 backbones against ResNet-18, and against other ANNs.

The stock config's detector with ResNet-18 and with other backbones from timm, the same with ours, and the published row with
spiking neck and heads; ours without and with memory_efficient, which computes norms and spikes again in the backward pass, and
on a GPU with bf16, torch.compile and both. All sides get the same images, boxes and masks. An iteration is forward pass,
losses, backward pass and SGD step. Each side takes turns with ResNet-18 in float32; ratios are to that.

    python benchmarks/detector.py --threads 2 --out benchmarks/results/detector_cpu.json
    python benchmarks/detector.py --device cuda --out benchmarks/results/detector_cuda.json       # batch 8

Seconds are CPU time with `--threads 1`, else time of the wall; memory is that of tensors on a GPU, and the resident set on a CPU.
"""

from functools import partial
from typing import NamedTuple

import torch
from saved import Results, begin, options
from timing import ratio, take_turns

import sterf_plugins

sterf_plugins.setup()

from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from sterf_plugins.openmmlab.configs.adapt import swap_backbone  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn  # noqa: E402
from sterf_plugins.openmmlab.runtime.speed import speed_up  # noqa: E402

STOCK = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
ROW = "sterf_plugins::mask_rcnn/mask-rcnn_sdtv3-t-srb_spikefpn_ms-1x_coco.py"


class Side(NamedTuple):
    """A detector, and how its iteration is computed."""

    config: str
    backbone: str | None = None  # to put into it; ``None`` for its own
    memory_efficient: bool = False
    dtype: torch.dtype | None = None  # of autocast, which is off if ``None``
    compiled: bool = False  # the backbone


BASE = Side(STOCK, "resnet18")
OURS = "sdtv3_tiny_srb"
SIDES = {
    "SDT-V3 tiny SRB": Side(STOCK, OURS),
    "SDT-V3 tiny SRB, memory_efficient": Side(STOCK, OURS, True),
    "SDT-V3 tiny SRB, spiking neck and heads": Side(ROW),
    "SDT-V3 tiny SRB, spiking neck and heads, memory_efficient": Side(ROW, None, True),
    "ResNet-50": Side(STOCK),
    "ConvNeXt-T": Side(STOCK, "convnext_tiny"),
    "Swin-T": Side(STOCK, "swin_tiny_patch4_window7_224"),
}
BF16 = torch.bfloat16
CUDA_SIDES = {
    "SDT-V3 tiny SRB, bf16 compiled": Side(STOCK, OURS, dtype=BF16, compiled=True),
    "SDT-V3 tiny SRB, compiled": Side(STOCK, OURS, compiled=True),
    "SDT-V3 tiny SRB, bf16": Side(STOCK, OURS, dtype=BF16),
    "SDT-V3 base SRB": Side(STOCK, "sdtv3_base_srb"),
    "SDT-V3 base SRB, bf16 compiled": Side(STOCK, "sdtv3_base_srb", dtype=BF16, compiled=True),
    "SDT-V3 tiny SRB, spiking neck and heads, bf16 compiled": Side(ROW, None, dtype=BF16, compiled=True),
    "ResNet-18, bf16 compiled": Side(STOCK, "resnet18", dtype=BF16, compiled=True),
}


def build(side: Side, args) -> torch.nn.Module:
    """The detector of one side, in training mode, with random weights."""
    config = load_config(side.config)
    if side.backbone:
        swap_backbone(config, side.backbone)
    config.model.backbone.pop("init_cfg", None)
    revert_sync_bn(config)
    if args.tiny:
        config.model.train_cfg.rcnn.sampler.num = 8
    torch.manual_seed(0)
    model = MODELS.build(config.model).to(args.device).train()
    speed_up(model, memory_efficient=side.memory_efficient, compiled=side.compiled)
    return model


def iteration(model: torch.nn.Module, batch: dict, dtype: torch.dtype | None, device: str) -> None:
    """Run one SGD step."""
    torch.manual_seed(1)  # the samplers' choice of boxes
    data = model.data_preprocessor(batch, True)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.add_(p.grad, alpha=-1e-5)
    model.zero_grad(set_to_none=True)


def compare(side: Side, args) -> dict:
    """Seconds and memory of one side beside ResNet-18, with the ratios."""
    batch = demo_mm_inputs(args.batch, (3, args.size, args.size), [8] * args.batch, num_classes=80, with_mask=True)
    sides = {
        name: partial(iteration, build(s, args), batch, s.dtype, args.device)
        for name, s in (("ResNet-18", BASE), ("this", side))
    }
    found = take_turns(sides, args.repeats, args.device)
    base, this = found["ResNet-18"], found["this"]
    ratios = dict(
        time_over_resnet18=ratio(this["seconds"], base["seconds"]),
        memory_over_resnet18=ratio(this["peak_mib"], base["peak_mib"]),
    )
    return this | ratios | dict(resnet18=base)


def main() -> None:
    p = options(__doc__, repeats=5)
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--batch", type=int, help="2 on a CPU, 8 on a GPU")
    args = begin(p)
    args.batch = args.batch or (8 if args.device == "cuda" else 2)
    sides = CUDA_SIDES | SIDES if args.device == "cuda" else SIDES
    if args.tiny:
        args.size, args.batch = 64, 1
        sides = {"SDT-V3 nano, spiking neck and heads": Side(ROW, "sdtv3_nano")}
    register_all_modules(init_default_scope=True)
    results = Results.of(args, size=args.size, batch=args.batch)
    for name, side in sides.items():
        results.once(partial(compare, side, args), "sides", name)


if __name__ == "__main__":
    main()
