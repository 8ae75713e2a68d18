"""Every model on a device against the CPU: outputs, the input's gradient and every parameter's."""

import copy
import itertools
import math

import timm
import torch
from saved import attempted

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.backbones import SDTV3

VARIANTS = [("conv", "raster"), *itertools.product(("mlpixer", "srb"), ("raster", "channel"))]


def compiled(model, args, mode=None):
    """The model as one graph for one size; a compilation that fails, or falls apart, is an error."""
    torch.compiler.reset()  # or else torch would silently not compile the ninth model of a kind
    options = dict(backend="aot_eager") if args.tiny else dict(backend="inductor", mode=mode)
    model.compile(fullgraph=True, dynamic=False, **options)
    return model


def outputs_and_gradients(model, x, dtype=None):
    """Outputs, the input's gradient and all parameters' gradients in one vector, as float64 on the CPU."""
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(y.double().square().mean() for y in outputs).backward()
    parameters = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [t.detach().double().cpu() for t in (*outputs, x.grad, parameters)]


def difference(found, exact) -> dict[str, float]:
    """Largest relative distance (2-norm) of an output, and of the gradients of the input and of all parameters."""
    distances = []
    for p, q in zip(found, exact, strict=True):
        error, size = (p - q).norm().item(), q.norm().item()
        finite = bool(p.isfinite().all()) and (size or not error)
        distances.append((error / size if size else 0.0) if finite else math.inf)
    return dict(outputs=max(distances[:-2]), gradients=max(distances[-2:]))


def compare(model, x, args, options: dict) -> dict:
    """Differences in training and in evaluation, for each way to compute."""
    for norm in model.modules():  # initial statistics would leave most layers without spikes in evaluation
        if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    exact = {}
    for training in (True, False):
        exact[training] = outputs_and_gradients(copy.deepcopy(model).double().train(training), x.double())

    def differs(prepare=lambda model: model, kind=torch.float64, dtype=None, modes=(True, False)):
        def function():
            worst = {}
            for training in modes:
                candidate = prepare(copy.deepcopy(model).to(args.device, kind).train(training))
                found = outputs_and_gradients(candidate, x.to(args.device, kind), dtype)
                worst["training" if training else "evaluation"] = difference(found, exact[training])
            return worst

        return attempted(function)

    # A spike that rounding flips changes all that follows: float32 and bf16 show what to expect and are no tolerances.
    found = dict(
        float64=differs(), float32=differs(kind=torch.float32), bf16=differs(kind=torch.float32, dtype=torch.bfloat16)
    )
    for name, prepare in options.items():
        found[f"float64 {name}"] = differs(prepare, modes=(True,) if name == "compiled" else (True, False))
    return found


def memory_efficient(model):
    """The model, which now computes norms and spikes again in the backward pass."""
    model.memory_efficient = True
    return model


def correctness(results, args) -> None:
    """Compare every variant of SDT-V3, computed in each way, and every registered model."""
    size = 32 if args.tiny else 64
    ways = dict(memory_efficient=memory_efficient, compiled=lambda model: compiled(model, args))
    for mixer, layout in VARIANTS:

        def variant(mixer=mixer, layout=layout):
            torch.manual_seed(0)
            model = SDTV3("nano" if args.tiny else "tiny", mixer, layout=layout, norm_hidden=mixer != "conv")
            return compare(model, torch.randn(2, 3, size, size), args, ways)

        results.once(variant, "correctness", f"{mixer} {layout}")
    names = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("sterf_plugins.")]
    for name in names[::11] if args.tiny else names:

        def registered(name=name):
            torch.manual_seed(0)
            model = timm.create_model(name, num_classes=10)
            return compare(model, torch.randn(2, 3, size, size), args, {})

        results.once(registered, "correctness", name)
