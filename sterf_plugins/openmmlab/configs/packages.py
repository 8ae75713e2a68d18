"""Config packages by their import names, as in ``_base_ = 'mmseg::…'``."""

from importlib.metadata import packages_distributions


def repair_config_packages() -> None:
    """Make ``_base_ = 'mmseg::...'`` and ``'sterf_plugins::...'`` work.

    mmengine maps import names to distribution names in a fixed table, which knows neither this package nor the
    maintained ``onedl-*`` distributions of the others.
    """
    from mmengine.config import utils as config_utils

    distributions = packages_distributions()
    for module in ("mmdet", "mmseg", "sterf_plugins"):
        if module in distributions:
            config_utils.MODULE2PACKAGE[module] = distributions[module][0]
