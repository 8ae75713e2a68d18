"""Configs, tools and examples go where OpenMMLab looks for them: copied into a wheel, linked by an editable install."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """``sterf_plugins/.mim/configs``, ``tools`` and ``examples``."""

    def run(self):
        super().run()
        package = ROOT / "sterf_plugins" if self.editable_mode else Path(self.build_lib) / "sterf_plugins"
        for name in ("configs", "tools", "examples"):
            target = package / ".mim" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self.editable_mode:
                shutil.copytree(ROOT / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif not target.is_dir():
                target.unlink(missing_ok=True)
                target.symlink_to(Path("..") / ".." / name, target_is_directory=True)


setup(cmdclass={"build_py": BuildWithConfigs})
