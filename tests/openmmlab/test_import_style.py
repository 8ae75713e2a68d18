"""Configs in mmengine's Python-import style, whose types are classes: every part that looks at types, and the real tools."""

import re
import sys
from pathlib import Path

import pytest

import sterf_plugins

sterf_plugins.setup()

import mmengine.registry  # noqa: E402
from mmcv.ops import nms  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import Registry, init_default_scope  # noqa: E402

from sterf_plugins.openmmlab.configs import swap_backbone, swap_stem  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn  # noqa: E402
from sterf_plugins.openmmlab.configs.types import type_name  # noqa: E402
from sterf_plugins.openmmlab.runtime.sharded import shard  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs/shapes/fpn_sdtv3-t-srb_imports_shapes.py"
MASK_RCNN = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
STOCK = [
    MASK_RCNN,
    "mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py",
    "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
]


def find(name: str, scope: str):
    """The class or function that an older config means by a name."""
    if name == "nms":
        return nms
    for root in (r for r in vars(mmengine.registry).values() if isinstance(r, Registry)):
        for registry in (root.children.get(scope), root):
            if registry is not None and name in registry.module_dict:
                return registry.module_dict[name]
    return None


def in_import_style(config: Config, path: Path) -> Path:
    """Write a config as mmdet writes its own in this style: types are imported, and ``default_scope`` is ``None``."""
    imports: dict[str, str] = {}

    def walk(node):
        if isinstance(node, (list, tuple)):
            return type(node)(walk(item) for item in node)
        if not isinstance(node, dict):
            return node
        node = {key: walk(value) for key, value in node.items() if key != "_scope_"}
        kind = find(node["type"], config.default_scope) if isinstance(node.get("type"), str) else None
        if kind is not None:
            module = "mmcv.ops" if kind is nms else kind.__module__
            alias = f"T{len(imports)}"
            imports[alias] = f"from {module} import {kind.__name__} as {alias}"
            node["type"] = f"@{alias}@"
        return node

    MODELS.build(dict(type="SyncBN", num_features=1))  # mmengine fills its registries when something is built
    settings = Config(walk(config.to_dict()) | dict(default_scope=None), format_python_code=False)
    text = re.sub(r"'@(T\d+)@'", r"\1", settings.pretty_text)
    path.write_text("\n".join(["from mmengine.config import read_base", *imports.values(), text]))
    return path


def test_the_shipped_config_is_the_one_it_rewrites():
    new, old = load_config(str(SHIPPED)), load_config(str(SHIPPED).replace("_imports", ""))
    assert new.to_dict() == {key: value for key, value in old.to_dict().items() if key != "data_preprocessor"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_configs_are_the_same_in_both_styles(name, tmp_path):
    """Also once they have been written by us, or by mmengine with the classes' paths."""
    old = load_config(name)
    init_default_scope(old.default_scope)
    MODELS.build(dict(type="BN", num_features=1))
    path = in_import_style(old, tmp_path / "imports.py")
    raw = Config.fromfile(path)
    assert isinstance(raw.model.type, type)
    new = load_config(str(path))
    assert new.to_dict() == old.to_dict()
    new.dump(tmp_path / "ours.py")
    raw.dump(tmp_path / "theirs.py")
    assert load_config(str(tmp_path / "ours.py")).to_dict() == new.to_dict()
    assert load_config(str(tmp_path / "theirs.py")).to_dict() == new.to_dict()


@pytest.mark.parametrize("read", [load_config, Config.fromfile], ids=["names", "classes"])
def test_whatever_looks_at_types_knows_classes(read, tmp_path):
    path = str(in_import_style(load_config("mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py"), tmp_path / "imports.py"))
    config = read(path)
    assert revert_sync_bn(config) == 3 and revert_sync_bn(config) == 0
    config.launcher, config.default_hooks.erf = "pytorch", dict(type=find("ERFHook", "sterf_plugins"))
    with pytest.raises(ValueError, match=r"ERFHook \(erf\) cannot run under FSDP"):
        shard(config)


@pytest.mark.slow
@pytest.mark.parametrize("read", [load_config, Config.fromfile], ids=["names", "classes"])
def test_backbone_and_stem_options(read, tmp_path):
    path = str(in_import_style(load_config(MASK_RCNN), tmp_path / "imports.py"))
    config, old = read(path), load_config(MASK_RCNN)
    for one in (config, old):
        swap_backbone(one, "sdtv3_nano_srb")
    assert config.model.backbone == old.model.backbone and config.model.neck.in_channels == [24, 48, 96, 128]
    generators = [one.model.rpn_head.anchor_generator for one in (config, old)]
    assert generators[0].strides == generators[1].strides and generators[0].base_sizes == generators[1].base_sizes
    config = read(path)
    swap_stem(config, "covariant")
    assert type_name(config.model.backbone) == "CovariantStemResNet"


def test_modules_named_on_the_command_line_are_imported(tmp_path, monkeypatch):
    """mmengine imports those alone that the config's file names."""
    (tmp_path / "plain.py").write_text("model = dict()\n")
    (tmp_path / "imported_by_option.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for options in (
        {"custom_imports.imports": ["imported_by_option"]},
        {"custom_imports": {"imports": "imported_by_option"}},
    ):
        load_config(str(tmp_path / "plain.py"), options)
        assert sys.modules.pop("imported_by_option")
    load_config(str(tmp_path / "plain.py"), {"custom_imports": None})


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "a.py").write_text("from mmdet.models import NoSuchDetector\nmodel = dict(type=NoSuchDetector)\n")
    with pytest.raises(ValueError, match="cannot be read: ImportError: Failed to import NoSuchDetector"):
        load_config(str(tmp_path / "a.py"))
    (tmp_path / "missing.py").write_text("custom_imports = dict(imports=['no_such_package.models'])\nmodel = dict()\n")
    with pytest.raises(
        ValueError, match="ModuleNotFoundError: No module named 'no_such_package'; install its package"
    ) as told:
        load_config(str(tmp_path / "missing.py"))
    assert "\n" not in str(told.value)
    (tmp_path / "plain.py").write_text("model = dict()\n")
    with pytest.raises(ValueError, match=r"--cfg-options custom_imports=.*No module named 'no_such_package'"):
        load_config(str(tmp_path / "plain.py"), {"custom_imports.imports": ["no_such_package.models"]})
    with pytest.raises(ValueError, match=r"--cfg-options custom_imports=\['a'\]"):
        load_config(str(tmp_path / "plain.py"), {"custom_imports": ["a"]})
    (tmp_path / "b.py").write_text("_base_ = 'c.py'\n")
    (tmp_path / "c.py").write_text("from mmdet.models import MaskRCNN\nmodel = dict(type=MaskRCNN)\n")
    with pytest.raises(ValueError, match="cannot be read: RuntimeError: The configuration file type"):
        load_config(str(tmp_path / "b.py"))


@pytest.mark.slow
def test_train_then_test_the_config_that_was_written(forked, shapes, tmp_path):
    data = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in ("train", "val", "test")]
    short = ["train_dataloader.batch_size=2", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    short += ["default_hooks.erf=None", "default_hooks.checkpoint.interval=2"]
    command = [ROOT / "tools" / "train.py", SHIPPED, "--work-dir", tmp_path, "--backbone", "sdtv3_nano_srb"]
    train = forked(*command, "--cfg-options", *data, *short)
    assert train.returncode == 0, train.stderr[-3000:]
    written = tmp_path / SHIPPED.name
    assert type_name(load_config(str(written)).optim_wrapper) == "OptimWrapper"
    test = forked(ROOT / "tools" / "test.py", written, tmp_path / "iter_2.pth", "--work-dir", tmp_path / "t")
    assert test.returncode == 0 and "mIoU" in test.stdout + test.stderr, test.stderr[-3000:]
