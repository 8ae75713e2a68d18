"""What pip installs: the wheel carries configs, tools and metadata."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import sterf_plugins

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_is_complete(wheel):
    names = set(wheel.namelist())
    for config in (ROOT / "configs").rglob("*.*"):
        if config.suffix in (".py", ".yml", ".md"):
            assert f"sterf_plugins/.mim/configs/{config.relative_to(ROOT / 'configs').as_posix()}" in names
    assert {
        "sterf_plugins/py.typed",
        "sterf_plugins/.mim/tools/train.py",
        "sterf_plugins/.mim/tools/dist_train.sh",
    } <= names
    assert "sterf_plugins/.mim/model-index.yml" in names
    assert "sterf_plugins/.mim/examples/plugin_template/pyproject.toml" in names
    entry_points = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "sterf = sterf_plugins.__main__:main" in entry_points
    metadata = next(n for n in names if n.endswith("METADATA"))
    text = wheel.read(metadata).decode()
    assert "Requires-Dist: onedl-mmdetection" in text and 'extra == "openmmlab"' in text
    assert not any(n.startswith(("tests/", "benchmarks/")) for n in names)


@pytest.mark.slow
def test_the_source_distribution_is_the_whole_project(distributions):
    """What is kept in the repository is in it, but for what only its host reads."""
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("benchmarks", "configs", "docs", "examples", "sterf_plugins", "tests", "tools")
    kept = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert set(kept) <= names, sorted(set(kept) - names)[:10]
    assert {"README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "setup.cfg"} <= names
    assert "mkdocs.yml" in names  # of `make docs`


@pytest.mark.slow
@pytest.mark.whole
def test_configs_of_the_installed_wheel_are_bases(wheel, tmp_path):
    """`_base_ = 'sterf_plugins::…'` from another folder, through the package that pip installed, and after one import of ours.

    ``openmmlab/test_bare_process.py`` starts from such bases without it, in processes that train and test as well.
    """
    wheel.extractall(tmp_path / "site")
    (tmp_path / "mine.py").write_text(
        "_base_ = 'sterf_plugins::semantic_fpn/fpn_sdtv3-t-srb_8xb4-160k_ade20k-512x512.py'\n"
        "model = dict(backbone=dict(levels=8))\n"
    )
    code = (
        "import sterf_plugins; sterf_plugins.setup(); from mmengine.config import Config; "
        "c = Config.fromfile('mine.py'); print(c.model.backbone.levels, c.model.backbone.mixer, sterf_plugins.__file__)"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"8 srb {tmp_path}")


def test_the_changelog_has_the_form_that_the_release_script_reads():
    """Keep a Changelog: versions newest first, each with its date, known sections and a link; notes of this version."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## .*", text, re.MULTILINE)[0] == "## [Unreleased]"
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(versions) + 1
    assert versions == sorted(versions, key=lambda v: [*map(int, v.split("."))], reverse=True)
    assert sterf_plugins.__version__ in versions
    sections = set(re.findall(r"^### (.*)", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(f"\n[{version}]: https://" in text for version in ("Unreleased", *versions))
    script = (ROOT / "tools" / "release.sh").read_text()
    (program,) = re.findall(r"^awk -v v=\"\$version\" '(.*)' CHANGELOG.md", script, re.MULTILINE)
    awk = ["awk", "-v", f"v={sterf_plugins.__version__}", program, "CHANGELOG.md"]
    notes = subprocess.run(awk, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert notes.startswith(f"## [{sterf_plugins.__version__}]") and "### Added" in notes
    assert "Unreleased" not in notes.partition("\n[")[0]


@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/python3"])
def test_files_are_compiled_where_an_environment_has_its_packages(python, tmp_path):
    """Debian's own Python installs packages elsewhere than its virtual environments do, and nothing was compiled there."""
    program = """if True:
        import sys, venv
        from pathlib import Path
        if sys.version_info < (3, 11):
            raise SystemExit("too old")
        sys.path.insert(0, sys.argv[1])
        from make_environment import packages_of
        folder = Path(sys.argv[2])
        venv.create(folder)
        print(Path(packages_of(folder)).relative_to(folder), Path(packages_of(folder)).is_dir())
    """
    if not Path(python).is_file():
        pytest.skip(f"there is no {python}")
    command = [python, "-c", program, str(ROOT / "tools"), str(tmp_path / "made")]
    result = subprocess.run(command, capture_output=True, text=True)
    if "too old" in result.stderr:
        pytest.skip(f"{python} is {result.stderr}")
    assert re.fullmatch(r"lib/python3\.\d+/site-packages True\n", result.stdout), result.stderr
