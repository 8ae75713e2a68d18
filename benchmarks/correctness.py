"""Every model and option on a device against float64 on the CPU: outputs, the input's gradient and every parameter's.

    python benchmarks/correctness.py --device cuda --out benchmarks/results/correctness_cuda.json

Each is computed on the device in float64, in float32 (without TF32), and with bf16 and fp16 autocast, fp16 with a loss that is
scaled; and in float64 with ``memory_efficient`` and ``torch.compile``, where a model has them. First come the mixers and
layouts of SDT-V3, then its options, one model of each other family, trackers and spiking detectors, and then all other
names that timm knows from here. In float64 a difference above 1e-9 is a fault; in the other types a spike that rounding
flips changes all that follows, so these figures show what to expect and are no tolerances.
"""

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from saved import Results, attempted, begin, options
from torch import Tensor, nn

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.backbones import SDTV3
from sterf_plugins.tracking import SDTrack, ShapeTracker
from sterf_plugins.undisturbed import tensors_in

VARIANTS = [("conv", "raster"), *itertools.product(("mlpixer", "srb"), ("raster", "channel"))]
OPTIONS: dict[str, dict] = {
    "covariant stem": dict(stem="covariant"),
    "8 levels": dict(levels=8),
    "layer_scale": dict(layer_scale=1e-2),
    "no hidden norm": dict(mixer="srb", norm_hidden=False),
    "no separable convolution": dict(sep_conv=False),
}
FAMILIES = (
    "spikformer_8_384", "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384", "max_former_10_384", "scale_covariant_net",
    "scale_covariant_net_spiking", "covrf_resnet18",
)  # fmt: skip
SPIKING = dict(
    rtmdet="rtmdet/rtmdet_sdtv3-t-srb_spikepafpn_8xb32-300e_coco.py",
    yolox="yolox/yolox_sdtv3-t-srb_spikepafpn_8xb8-300e_coco.py",
    mask_rcnn="mask_rcnn/mask-rcnn_sdtv3-t-srb_spikefpn_ms-1x_coco.py",
    semantic_fpn="semantic_fpn/fpn_sdtv3-t-srb_spikefpn_4xb10-160k_ade20k-512x512.py",
)
SHALLOW = dict(embed_dims=(32, 64, 128, 192), num_heads=8, depths=(1, 1, 1, 1, 1))  # what is compiled, to save minutes


class Tracker(nn.Module):
    """A tracker of one image (B, 3, H, W), whose upper left corner is the template; its maps."""

    def __init__(self, **settings):
        super().__init__()
        self.network = SDTrack(**settings)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x if self.network.T == 1 else x.expand(self.network.T, *x.shape)
        return tuple(self.network(x[..., : x.shape[-1] // 2, : x.shape[-1] // 2], x))


class Follower(nn.Module):
    """The tracker of shapes on a sequence of four equal frames (B, 3, H, W), as events of three channels."""

    def __init__(self, unit: str):
        super().__init__()
        self.network = ShapeTracker(in_ch=3, unit=unit)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tracks, _ = self.network(x.expand(4, *x.shape))
        return tracks.coordinates, tracks.probabilities


class Maps(nn.Module):
    """What a detector's dense head, or a segmentor's head, computes from images; all maps in one tuple."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        head = next(getattr(model, n) for n in ("rpn_head", "bbox_head", "decode_head") if getattr(model, n, None))
        return tuple(tensors_in(head(model.extract_feat(x))))


def openmmlab(config: str) -> nn.Module:
    """The head's maps of the detector or segmentor of a config of this package."""
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.registry import MODELS, init_default_scope

    from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn

    read = load_config(f"sterf_plugins::{config}")
    revert_sync_bn(read)
    init_default_scope(read.default_scope)
    model = Maps(MODELS.build(read.model))
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0  # each way would drop others
    return model


def registered(name: str) -> nn.Module:
    """The model that timm makes of a name."""
    return timm.create_model(name, num_classes=10)


def compiled(model: nn.Module) -> nn.Module:
    """The model as one graph for one size; a compilation that fails, or falls apart, is an error."""
    torch.compiler.reset()  # or else torch would silently not compile the ninth model of a kind
    model.compile(fullgraph=True, dynamic=False)
    return model


def memory_efficient(model: nn.Module) -> nn.Module:
    """The model, which now computes norms and spikes again in the backward pass."""
    model.memory_efficient = True
    return model


def outputs_and_gradients(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Outputs, the input's gradient and all parameters' gradients in one vector, as float64 on the CPU.

    With float16 the loss is scaled, as ``torch.amp.GradScaler`` does it: by half as much until all gradients are finite.
    """
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum(y.double().square().mean() for y in outputs)
    trained = [p for p in model.parameters() if p.requires_grad]
    scale = 2.0**16 if dtype is torch.float16 else 1.0
    while True:
        grads = torch.autograd.grad(loss * scale, [x, *trained], retain_graph=True, allow_unused=True)
        own, *others = [None if g is None else g.double() / scale for g in grads]
        parameters = torch.cat([g.flatten() for g in others if g is not None])
        if scale == 1.0 or parameters.isfinite().all():
            return [t.detach().double().cpu() for t in (*outputs, own, parameters)]
        scale /= 2


def difference(found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    """Largest relative distance (2-norm) of an output, and of the gradients of the input and of all parameters."""
    distances = []
    for p, q in zip(found, exact, strict=True):
        error, size = (p - q).norm().item(), q.norm().item()
        finite = bool(p.isfinite().all()) and (size or not error)
        distances.append((error / size if size else 0.0) if finite else math.inf)
    return dict(outputs=max(distances[:-2]), gradients=max(distances[-2:]))


def compare(make: Callable[[], nn.Module], ways: dict[str, Callable[[nn.Module], nn.Module]], args) -> dict:
    """Differences in training and in evaluation, for each way to compute; ``ways`` change a model in float64."""
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 3, args.size, args.size)
    for norm in model.modules():  # initial statistics would leave most layers without spikes in evaluation
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    exact = {}
    for training in (True, False):
        exact[training] = outputs_and_gradients(copy.deepcopy(model).double().train(training), x.double())

    def differs(prepare=None, kind=torch.float64, dtype=None, modes=(True, False)) -> dict:
        def function() -> dict:
            worst = {}
            for training in modes:
                candidate = copy.deepcopy(model).to(args.device, kind).train(training)
                candidate = prepare(candidate) if prepare else candidate
                found = outputs_and_gradients(candidate, x.to(args.device, kind), dtype)
                worst["training" if training else "evaluation"] = difference(found, exact[training])
            return worst

        return attempted(function)

    single = torch.float32
    found = dict(
        float64=differs(),
        float32=differs(kind=single),
        bf16=differs(kind=single, dtype=torch.bfloat16),
    )
    if args.device == "cuda":  # on a CPU a convolution in fp16 takes minutes
        found["fp16"] = differs(kind=single, dtype=torch.float16)
    for name, prepare in ways.items():
        found[f"float64 {name}"] = differs(prepare, modes=(True,) if name == "compiled" else (True, False))
    return found


def cases(tiny: bool) -> dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]]:
    """Name -> function that makes the model, and the ways in which it is computed besides."""
    both: tuple[str, ...] = ("memory_efficient", "compiled")
    found: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {}
    for mixer, layout in VARIANTS:
        make = partial(SDTV3, SHALLOW, mixer, layout=layout, norm_hidden=mixer != "conv")
        found[f"{mixer} {layout}"] = (make, both)
    found |= {name: (partial(SDTV3, SHALLOW, **settings), both[:1]) for name, settings in OPTIONS.items()}
    found |= {name: (partial(registered, name), both[:1]) for name in FAMILIES}
    for variant, mixer in itertools.product(("1x4", "2x2", "4x1"), ("conv", "mlpixer", "srb")):
        found[f"SDTrack {variant} {mixer}"] = (partial(Tracker, variant=variant, mixer=mixer), ())
    found |= {f"ShapeTracker {unit}": (partial(Follower, unit), ()) for unit in ("li", "lif", "relu")}
    found |= {f"spiking {name}": (partial(openmmlab, config), ()) for name, config in SPIKING.items()}
    own = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("sterf_plugins.")]
    found |= {name: (partial(registered, name), ()) for name in own if name not in found}
    if tiny:
        kept = ("8 levels", "ShapeTracker lif")
        found = {name: found[name] for name in kept}
    return found


def main() -> None:
    p = options(__doc__, repeats=1)
    p.add_argument("--size", type=int, default=64, help="side of the images (default: %(default)s)")
    args = begin(p)
    if args.tiny:
        args.size = 32
    results = Results.of(args, size=args.size)
    ways = dict(memory_efficient=memory_efficient, compiled=compiled)
    for name, (make, chosen) in cases(args.tiny).items():
        results.once(partial(compare, make, {way: ways[way] for way in chosen}, args), "correctness", name)


if __name__ == "__main__":
    main()
