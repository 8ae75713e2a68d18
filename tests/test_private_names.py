"""Private and unstable names of other libraries: what this package needs of each, so that a new release fails here."""

import ast
import importlib
import inspect
import io
import pickle
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

ROOT = Path(__file__).resolve().parents[1]
KERNELS, COUNTED = "functional/torch_kernels.py", "activity/operations.py backbones/recompute.py"
BACKWARD = f"{KERNELS} erf/passes/cropped.py"  # backward passes of our own
OPERATIONS = "activity/operations.py"
INTERNALS, STEMS = "openmmlab/runtime/mmengine_internals.py", "openmmlab/backbones/covariant_stems.py"
ROI = "openmmlab/heads/spike_detection.py"
aten, ones = torch.ops.aten, torch.ones


# "library: name" -> our files, for what they use it, and a check that raises unless it is as they need it.
USES: dict[str, tuple[list[str], str, Callable[[], None]]] = {}


def uses(name: str, files: str, purpose: str):
    """Enter the decorated check, and what it is for, in ``USES``."""
    return lambda check: USES.setdefault(name, (files.split(), purpose, check)) and check


@uses("torch: ops.aten.hardtanh_backward", KERNELS, "a clamp's gradient in one pass")
def check_hardtanh_backward():
    x = torch.tensor([-1.0, 0.5, 4.0, 5.0])
    assert aten.hardtanh_backward(torch.full((4,), 3.0), x, 0.0, 4.0).tolist() == [0, 3, 0, 0]


@uses("torch: ops.aten.convolution_backward", BACKWARD, "gradients that stay channels-last")
def check_convolution_backward():
    x = torch.randn(2, 4, 6, 5).contiguous(memory_format=torch.channels_last)
    grad, w = torch.randn_like(x), torch.randn(4, 1, 3, 3)
    options = ((1, 1), (1, 1), (1, 1), False, (0, 0), 4)
    of_x, of_w, of_bias = aten.convolution_backward(grad, x, w, None, *options, (True, True, False))
    torch.testing.assert_close(of_x, torch.nn.grad.conv2d_input(x.shape, w, grad, 1, 1, 1, 4))
    torch.testing.assert_close(of_w, torch.nn.grad.conv2d_weight(x, w.shape, grad, 1, 1, 1, 4))
    assert of_x.is_contiguous(memory_format=torch.channels_last) and of_bias is None


@uses(
    "torch: compiler._is_exporting_flag", KERNELS, "raster mixers refuse exports of a dynamic size, and compile for any"
)
def check_is_exporting():
    if torch.__version__.startswith("2.6."):
        pytest.skip("PyTorch 2.6 does not tell of an export")

    class Flag(nn.Module):
        def forward(self, x):
            return x + 2 if torch.compiler._is_exporting_flag else x + 1

    for strict in (False, True):
        assert torch.export.export(Flag(), (ones(1),), strict=strict).module()(ones(1)) == 3
    assert torch.compile(Flag(), backend="eager")(ones(1)) == 2


@uses("torch: _C._current_graph_task_id", "undisturbed.py", "what recomputation runs again is counted once")
def check_graph_task():
    found = []

    def function(x):
        found.append(torch._C._current_graph_task_id())
        return x.sin()

    checkpoint(function, ones(1, requires_grad=True), use_reentrant=False).backward()
    assert found[0] == -1 and found[1] >= 0 and len(found) == 2


@uses("torch: state dicts' _metadata", "layers/described.py", "arguments that a checkpoint's shapes do not tell")
def check_metadata():
    class Told(nn.Module):
        pass

    module, found = Told(), []
    module.register_state_dict_post_hook(lambda module, state, prefix, metadata: metadata.update(description=3))
    module.register_load_state_dict_pre_hook(lambda module, state, prefix, metadata, *_: found.append(metadata))
    file = io.BytesIO()
    torch.save(nn.Sequential(module).state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()))
    assert state._metadata["0"]["description"] == 3
    nn.Sequential(module).load_state_dict(state)
    assert found[0]["description"] == 3


@uses("torch: autograd nodes' _saved_normalized_shape", "erf/outputs/selection.py", "what a LayerNorm normalises over")
def check_saved_normalized_shape():
    node = nn.LayerNorm([2, 3])(torch.zeros(4, 2, 3, requires_grad=True)).grad_fn
    assert node.name().startswith("NativeLayerNorm") and tuple(node._saved_normalized_shape) == (2, 3)


@uses("torch: nn.Module _forward_hooks", "module_state.py", "hooks that a model gives its modules while it runs")
@uses("torch: nn.Module _forward_pre_hooks", "module_state.py", "the same of those before a module")
def check_forward_hooks():
    module, called = nn.Identity(), []
    handles = [
        register(lambda *arguments: called.append(1))
        for register in (module.register_forward_hook, module.register_forward_pre_hook)
    ]
    for hooks, handle in zip((module._forward_hooks, module._forward_pre_hooks), handles, strict=True):
        del hooks[handle.id]
    module(1)
    assert not called


@uses("torch: nn.Module _parameters", "module_state.py", "which parameters a module has made or replaced while it ran")
@uses("torch: nn.Module _modules", "module_state.py", "the same of modules")
@uses("torch: nn.Module _buffers", "module_state.py", "buffers that were None before, which no public way names")
def check_entries():
    module = nn.BatchNorm1d(2, affine=False)
    module.register_buffer("state", None)
    module.inner = nn.Identity()
    assert list(module._parameters) == ["weight", "bias"] and list(module._modules) == ["inner"]
    assert module._buffers["state"] is None and torch.equal(module._buffers["running_var"], ones(2))


@uses("torch: autograd nodes' _saved_input", "erf/passes/single.py", "the memory order of a BatchNorm's input")
def check_saved_input():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    node = F.batch_norm(x, torch.zeros(2), ones(2)).grad_fn
    assert node.name().startswith("NativeBatchNorm") and torch.equal(node._saved_input, x)


def saved(*names: str):
    """What a node of PyTorch's graph keeps, by which the theoretical field tells where a gradient goes."""

    def decorate(check):
        for name in names:
            uses(f"torch: autograd nodes' _saved_{name}", "erf/theory/marks.py", "where gradients go through a node")(
                check
            )
        return check

    return decorate


@saved("self", "mat2")
def check_saved_factors():
    a, b = (torch.randn(2, 3, 3, requires_grad=True) for _ in range(2))
    node = torch.bmm(a, b).grad_fn
    assert torch.equal(node._saved_self, a) and torch.equal(node._saved_mat2, b)


@saved("kernel_size", "stride", "padding", "dilation")
def check_saved_pooling():
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    node = F.max_pool2d(x, 3, 2, 1, 1).grad_fn
    pool = node._saved_kernel_size, node._saved_stride, node._saved_padding, node._saved_dilation
    assert pool == ((3, 3), (2, 2), (1, 1), (1, 1))


@saved("alpha", "dim", "keepdim")
@uses(
    "torch: autograd nodes' _saved_training",
    "erf/theory/marks.py erf/passes/single.py",
    "whether a BatchNorm sees all inputs",
)
def check_saved_settings():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert torch.add(x, x, alpha=-2).grad_fn._saved_alpha == -2
    assert F.batch_norm(x, None, None, training=True).grad_fn._saved_training is True
    node = x.amax((2, 3), keepdim=True).grad_fn
    assert [d % 4 if d >= 0 else d for d in node._saved_dim] in ([2, 3], [-2, -1]) and node._saved_keepdim is True


@uses("torch: _C", f"{KERNELS} undisturbed.py", "whether torch.func, or a backward pass, is at work")
@uses("torch: _C._are_functorch_transforms_active", "undisturbed.py", "whether torch.func is at work")
def check_transforms_active():
    seen = [torch._C._are_functorch_transforms_active()]
    torch.func.vmap(lambda x: (seen.append(torch._C._are_functorch_transforms_active()), x)[1])(ones(2))
    assert seen == [False, True]


@uses("torch: autograd.forward_ad._current_level", "undisturbed.py", "whether forward-mode differentiation is at work")
def check_current_level():
    assert torch.autograd.forward_ad._current_level < 0
    with torch.autograd.forward_ad.dual_level():
        assert torch.autograd.forward_ad._current_level >= 0


@uses("torch: _C._functorch", KERNELS, "many gradients at once")
def check_functorch():
    x, seen = ones(2, requires_grad=True), []
    y = x * 1
    y.register_hook(lambda grad: seen.append(torch._C._functorch.is_legacy_batchedtensor(grad)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, ones(2))
    assert seen == [True, False]


def check_dispatch(operation: str, arguments: int, call: Callable[[], torch.Tensor]):
    """``call`` reaches dispatch modes as ``torch.ops.aten.<operation>.default`` with so many positional arguments."""
    seen = {}
    remember = lambda _, op, *args, **kw: seen.update({op: len(args)}) or CheckpointPolicy.MUST_SAVE  # noqa: E731
    with create_selective_checkpoint_contexts(remember)[0], torch.no_grad():
        call()
    assert seen.get(getattr(aten, operation).default) == arguments, f"dispatched were {seen}"


for operation, *row in (
    ("mm", 2, lambda: F.linear(ones(2, 3), ones(4, 3))),
    ("addmm", 3, lambda: F.linear(ones(2, 3), ones(4, 3), ones(4))),
    ("bmm", 2, lambda: ones(5, 2, 3) @ ones(5, 3, 4)),
    ("baddbmm", 3, lambda: torch.baddbmm(ones(1), ones(5, 2, 3), ones(5, 3, 4))),
    ("convolution", 9, lambda: F.conv2d(ones(1, 3, 5, 5), ones(2, 3, 3, 3))),
):
    uses(f"torch: ops.aten.{operation}", COUNTED, "counting operations")(partial(check_dispatch, operation, *row))

for operation, *row in (
    ("addbmm", 3, lambda: torch.addbmm(ones(2, 4), ones(5, 2, 3), ones(5, 3, 4))),
    ("mv", 2, lambda: ones(2, 3) @ ones(3)),
    ("addmv", 3, lambda: torch.addmv(ones(2), ones(2, 3), ones(3))),
    ("dot", 2, lambda: ones(3) @ ones(3)),
    ("_scaled_dot_product_flash_attention_for_cpu", 3, lambda: F.scaled_dot_product_attention(*[ones(1, 2, 5, 4)] * 3)),
):
    uses(f"torch: ops.aten.{operation}", OPERATIONS, "counting operations")(partial(check_dispatch, operation, *row))


@uses("torch: ops.aten._scaled_dot_product_flash_attention", OPERATIONS, "counting fused attention")
def check_flash_attention():
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry[aten._scaled_dot_product_flash_attention]
    assert formula(*[ones(1, 2, 5, 4)] * 3, out_val=ones(1, 2, 5, 4)) == 2 * 2 * (2 * 5 * 5 * 4)


@uses("torch: utils._python_dispatch", "activity/single_products.py", "operators that are made of others")
def check_python_dispatch():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.name())
            with self:
                out = func.decompose(*args, **kwargs or {})
            return func(*args, **kwargs or {}) if out is NotImplemented else out

    seen = []
    with torch.inference_mode(), Names():
        F.linear(ones(2, 3), ones(4, 3))
    assert "aten::linear" in seen and "aten::mm" in seen


@uses("torch: _dynamo", "undisturbed.py", "whether anything may be compiled")
def check_dynamo():
    script = "import sys, torch; a = 'torch._dynamo' in sys.modules; torch.compile(lambda x: x + 1, backend='eager')"
    script += "(torch.ones(1)); print(a, 'torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False True\n"


@uses("torch: utils.checkpoint.CheckpointFunction", "undisturbed.py", "gradients through re-entrant checkpoints")
def check_checkpoint_function():
    calls = []
    stand_in = types.SimpleNamespace(apply=lambda function, preserve, *args: calls.append(preserve) or function(*args))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.checkpoint, "CheckpointFunction", stand_in)
        assert checkpoint(torch.add, ones(1), ones(1), use_reentrant=True).item() == 2
    assert calls == [True]


@uses("torch: save.__code__", "cli/console.py", "a Ctrl-C that waits until a file is written")
def check_save_code():
    class Pickled:
        def __reduce__(self):
            codes.extend(frame.frame.f_code for frame in inspect.stack(0))
            return int, ()

    codes = []
    torch.save(Pickled(), io.BytesIO())
    assert torch.save.__code__ in codes


@uses("torchvision: torch.ops.torchvision.roi_pool", "mmcv_ops/regions.py", "the positions of the maxima")
def check_roi_pool():
    x = torch.rand(1, 1, 4, 4)
    values, index = torch.ops.torchvision.roi_pool(x, torch.tensor([[0, 0.0, 0, 3, 3]]), 1.0, 2, 2)
    assert values.shape == (1, 1, 2, 2) and torch.equal(x.flatten()[index.long()], values)


@uses("numpy: _core.multiarray", "checkpoints/reading.py", "the functions that pickled arrays name")
def check_multiarray():
    import numpy as np

    for value, name in ((np.zeros(2), "_reconstruct"), (np.float64(1), "scalar")):
        assert value.__reduce__()[0].__name__ == name
        assert f"numpy._core.multiarray\n{name}\n".encode() in pickle.dumps(value, protocol=2)


@uses("mmengine: config.utils.MODULE2PACKAGE", "import_hooks.py", "_base_ = 'mmseg::…' with onedl's distributions")
def check_module2package():
    from mmengine.config import utils
    from mmengine.hub import get_config

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="no-such-distribution"):
        patch.setenv("PATH", str(Path(sys.executable).parent))  # it calls `python -m pip`
        patch.setitem(utils.MODULE2PACKAGE, "sterf_absent", "no-such-distribution")
        get_config("sterf_absent::a/b.py")


@uses("torch: OptimizedModule._orig_mod", "erf/outputs/targets.py firing.py", "names of layers of compiled models")
def check_orig_mod():
    module = nn.Identity()
    assert torch.compile(module, backend="eager")._orig_mod is module


@uses(
    "torch: Module._apply", "stems/fields/fixed.py", "fixed numbers keep their values where modules are moved or cast"
)
def check_apply():
    class Counted(nn.Module):
        def _apply(self, fn, recurse=True):
            calls.append(fn)
            return super()._apply(fn, recurse)

    calls: list = []
    nn.Sequential(Counted()).double().to_empty(device="cpu")
    assert len(calls) == 2


@uses(
    "mmengine: config.Config._get_cfg_path", "import_hooks.py", "the scope of types below _base_ = 'sterf_plugins::…'"
)
def check_get_cfg_path():
    from mmengine.config import Config

    path, scope = Config._get_cfg_path("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "mine.py")
    assert path.endswith("mask-rcnn_r50_fpn_1x_coco.py") and scope == "mmdet"


@uses("mmengine: BaseModule._params_init_info", INTERNALS, "a stock stem in place during init_weights")
def check_params_init_info():
    from mmengine.model import BaseModule

    model, seen = BaseModule(), {}
    model.child, model.conv = nn.Module(), nn.Conv2d(1, 1, 1)
    model.child.init_weights = lambda: seen.update(model.child._params_init_info)
    model.init_weights()
    assert all(seen[p].keys() == {"init_info", "tmp_mean_value"} for p in model.conv.parameters())
    assert not hasattr(model, "_params_init_info")


@uses("mmengine: FSDPStrategy", "openmmlab/runtime/sharded.py", "training with --fsdp")
def check_fsdp_strategy():
    import mmengine.runner  # noqa: F401  (registers the strategies)
    from mmengine.registry import STRATEGIES

    strategy = STRATEGIES.get("FSDPStrategy")  # None where mmengine cannot import it with this PyTorch
    assert list(inspect.signature(strategy.build_optim_wrapper).parameters) == ["self", "optim_wrapper", "model"]
    assert strategy.save_checkpoint and strategy.load_optim_state_dict


@uses("mmcv: _ext", "import_hooks.py", "mmdet where mmcv has no compiled ops")
def check_ext():
    from mmcv.utils import ext_loader

    assert ext_loader.load_ext("_ext", ["nms", "roi_align_forward"]) is sys.modules["mmcv._ext"]


def check_calls(path: str, name: str, parameters: list[str], callers: str):
    """The class has this method with these parameters, and its other methods call it."""
    module, owner = path.rsplit(".", 1)
    cls = getattr(importlib.import_module(module), owner)
    assert list(inspect.signature(getattr(cls, name)).parameters)[1:][: len(parameters)] == parameters
    for caller in callers.split():
        assert f"self.{name}(" in inspect.getsource(getattr(cls, caller)), f"{caller} does not call it"


for files, purpose, *row in (
    (INTERNALS, "clipping by the whole norm", "mmengine.optim.OptimWrapper", "_clip_grad", [], "step"),
    (INTERNALS, "clipping by the whole norm", "mmengine.optim.AmpOptimWrapper", "_clip_grad", [], "step"),
    *((ROI, "averages over time", "mmdet.models.roi_heads.StandardRoIHead", f"_{part}_forward", ["x", "rois"],
       f"forward {part}_loss predict_{part}") for part in ("bbox", "mask")),
    *((STEMS, "the swap of the stem", f"{package}.models.backbones.ResNet", name, parameters, callers)
      for name, parameters, callers in (("_make_stem_layer", ["in_channels", "stem_channels"], "__init__"),
                                        ("_freeze_stages", [], "__init__ train"))
      for package in ("mmdet", "mmseg")),
):  # fmt: skip
    library, _, path = row[0].partition(".")
    uses(f"{library}: {path}.{row[1]}", files, purpose)(partial(check_calls, *row))


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_name(name):
    """The name is there and does what our files need of it."""
    (files, purpose, check), (library, name) = USES[name], name.split(": ")
    pytest.importorskip(library)
    if library.startswith("mm"):
        importlib.import_module("sterf_plugins").setup()
    try:
        check()
    except Exception as error:
        what = f"{library} {version(packages_distributions()[library][0])}: {name} is gone or changed"
        raise AssertionError(f"{what}; {' and '.join(files)} uses it for {purpose}") from error


def foreign_names(path: Path) -> set[str]:
    """Private names that a file uses without defining them, and PyTorch's operators below its public functions."""
    nodes, found = list(ast.walk(ast.parse(path.read_text()))), set()
    own = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    own |= {re.sub(r"^(self|cls)\.", "", ast.unparse(n)) for n in nodes if isinstance(getattr(n, "ctx", 0), ast.Store)}
    alias = {ast.unparse(n.targets[0]): ast.unparse(n.value) for n in nodes if isinstance(n, ast.Assign)}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if ast.unparse(node) == "os._exit":  # which Python documents
                continue
            if re.match("_[a-zA-Z]", node.attr) or re.fullmatch(r"torch\.ops\.\w+", alias.get(owner, owner)):
                found.add(node.attr)
        elif isinstance(node, ast.Call):  # getattr and its like
            found.update(re.findall(r"^\w+attr\([^']*, '(_[a-zA-Z]\w*)'", ast.unparse(node)))
        elif isinstance(node, ast.Constant):  # as "mmcv._ext"
            found.update(re.findall(r"^'[\w.]+\.(_[a-zA-Z]\w*)", ast.unparse(node)))
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            found.update(re.findall(r"\b_[a-zA-Z]\w*", ast.unparse(node)))
    return found - own


@pytest.mark.slow
def test_the_list_is_what_our_sources_use():
    """A file uses no private name of another library that the list does not give for it, and each that it gives.

    Names that a file defines or assigns to ``self`` count as its own; the next test looks at these.
    """
    for path in [p for folder in ("sterf_plugins", "tools", "benchmarks") for p in (ROOT / folder).rglob("*.py")]:
        file = path.relative_to(ROOT).as_posix().removeprefix("sterf_plugins/")
        listed = {re.split(r"[. ]", name)[-1] for name, use in USES.items() if file in use[0]}
        unlisted = sorted(foreign_names(path) - listed)
        assert not unlisted, f"{file} uses {unlisted}: find a public way, or add a check to this file"
        unused = [name for name in listed if name not in path.read_text()]
        assert not unused, f"{file} does not use {unused} any more: remove its checks from this file"
    assert all((ROOT / "sterf_plugins" / file).is_file() for use in USES.values() for file in use[0])


@cache
def private_names(cls: type) -> set[str]:
    """Private names that a class defines or assigns to ``self``."""
    try:
        text = inspect.getsource(cls)
    except (OSError, TypeError):  # built in, or made by ``type``
        return set()
    return set(re.findall(r"(?:def |self\.|^    )(_[a-z]\w*)", text, re.MULTILINE))


@pytest.mark.slow
def test_no_private_name_of_a_base_class_is_overridden_by_accident():
    """Our classes have no private name in common with their bases from other libraries, but for those in the list."""
    pytest.importorskip("mmengine")
    package = importlib.import_module("sterf_plugins")
    package.setup()
    modules = [m.name for m in pkgutil.walk_packages(package.__path__, "sterf_plugins.") if not m.name.endswith("__")]
    classes = {c for name in modules for c in vars(importlib.import_module(name)).values() if isinstance(c, type)}
    ours = {c for cls in classes if cls.__module__ in modules for c in (cls, *cls.__subclasses__())}
    assert len(ours) > 100
    for cls in ours:
        names = {True: set(), False: set()}
        for base in cls.__mro__[:-1]:
            names[base in ours] |= private_names(base)
        common = names[True] & names[False] - {re.split(r"[. ]", name)[-1] for name in USES}
        assert not common, f"{cls.__module__}.{cls.__name__} has {sorted(common)} in common with its base classes"
