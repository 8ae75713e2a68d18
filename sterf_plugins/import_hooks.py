"""What OpenMMLab's libraries find missing in a plain ``pip install``, put in at the moment when they look for it.

* ``mmcv._ext``, mmcv's compiled ops, which mmdet imports: where mmcv has none, ``mmcv_ops`` stands in for them;
* mmengine's table of config packages, by which ``_base_ = "mmseg::…"`` finds a package: it knows neither this package
  nor the maintained ``onedl-*`` distributions of the others;
* what ``_base_ = "sterf_plugins::…"`` says of the types in it: mmengine would look for all of them in the scope
  ``sterf_plugins``, but those without a prefix are mmdet's or mmseg's, as the config's ``default_scope`` says.

PyTorch calls ``install`` at the end of ``import torch``, because ``setup.cfg`` names it in the entry-point group
``torch.backends`` (PyTorch's autoloading of extensions; ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` switches it off). mmdet, mmseg
and mmcv import torch before they need either, so nobody has to import this package first. This file therefore imports
nothing that takes time, and does nothing in a process that uses no OpenMMLab library.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
MMCV_OPS = "mmcv._ext"
CONFIG = "mmengine.config.config"


class _MissingOps(Loader):
    """Loads the stand-in for mmcv's compiled ops."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The stand-in, under the name that was looked for."""
        from .mmcv_ops import stand_in

        return stand_in(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """The stand-in is complete as it is made; a loader must have this method."""


class _Config(SourceFileLoader):
    """Loads mmengine's module as it is, and teaches it our config packages."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _know_config_packages(module.Config)


class _Finder(MetaPathFinder):
    """Finds what the import system finds, but for the two modules above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == MMCV_OPS:  # where mmcv is compiled, its own module is found and nothing is touched
            return PathFinder.find_spec(fullname, path) or ModuleSpec(fullname, _MissingOps())
        if fullname == CONFIG and (spec := PathFinder.find_spec(fullname, path)) and spec.origin:
            spec.loader = _Config(fullname, spec.origin)
            return spec
        return None


def install() -> None:
    """Put the finder in front of the import system's own, once; mmengine's config module may be there already."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        if config := getattr(sys.modules.get(CONFIG), "Config", None):
            _know_config_packages(config)


def compiled_ops_available() -> bool:
    """Whether mmcv is installed and has its own compiled ops."""
    spec = find_spec(MMCV_OPS) if find_spec("mmcv") else None
    return spec is not None and not isinstance(spec.loader, _MissingOps)


def _know_config_packages(config: Any) -> None:
    """Let mmengine's ``Config`` start from installed packages, and leave the scope of our own to ``default_scope``.

    The table is a module's constant without a function that adds to it; its entries that name something installed stay.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    distributions = packages_distributions()
    for module in ("mmdet", "mmseg"):
        if module in distributions and not _is_installed(MODULE2PACKAGE.get(module)):
            MODULE2PACKAGE[module] = distributions[module][0]
    # The module's name, since mmengine imports what it does not find on the disk, as with an editable install.
    MODULE2PACKAGE[PACKAGE] = PACKAGE
    find = config._get_cfg_path

    def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, None if scope == PACKAGE else scope

    config._get_cfg_path = staticmethod(_get_cfg_path)


def _is_installed(name: str | None) -> bool:
    try:
        return name is not None and bool(distribution(name))
    except PackageNotFoundError:
        return False
