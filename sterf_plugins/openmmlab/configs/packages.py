"""Config packages by their import names, as in ``_base_ = 'mmseg::…'``."""

from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

from ..runtime.mmengine_internals import config_distributions


def repair_config_packages() -> None:
    """Make ``_base_ = 'mmseg::...'`` and ``'sterf_plugins::...'`` work.

    mmengine maps import names to distribution names in a fixed table, which knows neither this package nor the
    maintained ``onedl-*`` distributions of the others.
    """
    table, distributions = config_distributions(), packages_distributions()
    for module in ("mmdet", "mmseg", "sterf_plugins"):
        if module in distributions and not _is_installed(table.get(module)):
            table[module] = distributions[module][0]


def _is_installed(name: str | None) -> bool:
    try:
        return name is not None and bool(distribution(name))
    except PackageNotFoundError:
        return False
