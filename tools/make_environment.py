"""Create or update the virtual environment that `make` uses. Needs only Python >= 3.11 with venv and pip.

Where the interpreter that runs this already has a torch >= 2.6 with a matching torchvision, the environment is built
on it and never replaces it; otherwise the tested pair is installed from the package registry. Run it again at any
time: it does nothing when nothing has changed, and goes on where it was interrupted.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTED_PAIR = ("torch==2.11.0", "torchvision==0.26.0")
KEPT = ("torch", "torchvision", "torchaudio", "triton")  # taken from the interpreter at hand, in its versions
STAMP = "sterf-environment.json"  # file in the environment that holds the fingerprint it was made with

# Runs in the interpreter at hand: is there a torch to build on, and do torchvision's ops load with it?
PROBE = """
import json, sys
from importlib.metadata import version, PackageNotFoundError
try:
    import torch, torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    new_enough = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 6)
except Exception:
    new_enough = False
found = {}
if new_enough:
    for name in sys.argv[1:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
print(json.dumps(found))
"""


# Succeeds where cv2 can be imported and has no windows.
HEADLESS = """
import cv2
lines = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
raise SystemExit(0 if lines and "NONE" in lines[0] else 1)
"""


def say(message: str) -> None:
    """Print a line, in bold on a terminal."""
    print(f"\033[1m{message}\033[0m" if sys.stdout.isatty() else message, flush=True)


def run(*command: str) -> None:
    """Run a command in the repository's root; ``CalledProcessError`` if it fails."""
    subprocess.run(command, check=True, cwd=ROOT)


def base_torch() -> dict[str, str]:
    """Versions of the torch packages of this interpreter, empty if there is none to build on."""
    result = subprocess.run([sys.executable, "-c", PROBE, *KEPT], capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 and result.stdout else {}


def fingerprint(base: dict[str, str]) -> dict:
    """All that an environment is made from; where it differs from the recorded one, the environment is updated."""
    files = [ROOT / name for name in ("setup.cfg", "setup.py", "pyproject.toml", "tools/make_environment.py")]
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    return dict(files=digest, python=sys.version, prefix=sys.prefix, base=base, root=str(ROOT))


def build_on(folder: Path) -> None:
    """Let the environment see the packages of this interpreter where that is itself a virtual environment.

    `system_site_packages` reaches the interpreter that a virtual environment was made from, not the environment.
    """
    if sys.prefix == sys.base_prefix:
        return
    Path(packages_of(folder), "interpreter-that-ran-make.pth").write_text(sysconfig.get_path("purelib") + "\n")


def packages_of(folder: Path) -> str:
    """The folder of a virtual environment that holds its packages; the scheme is named since Debian's own Python has another."""
    return sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)})


def compile_files(python: str, folder: Path) -> None:
    """Compile all packages in as many processes as there are cores; what is no Python, such as templates, stays as it is."""
    subprocess.run([python, "-W", "ignore", "-m", "compileall", "-qq", "-j", "0", packages_of(folder)])


def keep_headless_opencv(python: str, pip: list[str]) -> None:
    """Have the OpenCV without windows in place: the other one needs libGL, which servers lack."""

    def packages(*options: str) -> dict[str, str]:
        listing = subprocess.run([*pip, "list", "--format=json", *options], check=True, capture_output=True, text=True)
        return {p["name"].lower(): p["version"] for p in json.loads(listing.stdout)}

    everywhere = packages()
    version = everywhere.get("opencv-python-headless", everywhere.get("opencv-python"))
    doubled = "opencv-python" in packages("--local")  # both flavours share one folder; the last one written wins
    if not version or (not doubled and subprocess.run([python, "-c", HEADLESS], capture_output=True).returncode == 0):
        return
    say("      keeping the headless OpenCV only (the other needs libGL)")
    if doubled:
        run(*pip, "uninstall", "-q", "-y", "opencv-python")
    run(*pip, "install", "-q", "--ignore-installed", "--no-deps", f"opencv-python-headless=={version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / ".venv", help="default: .venv")
    folder = parser.parse_args().folder.resolve()
    if sys.version_info < (3, 11):  # noqa: UP036  (this file runs before pip can check it)
        sys.exit(f"Python >= 3.11 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 …")
    base = base_torch()
    current = fingerprint(base)
    stamp = folder / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == current:
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        sys.exit(f"{folder} holds files and is no virtual environment; give another folder")
    start = time.time()
    on = f"on the torch {base['torch']} of {sys.prefix}" if base else "from the package registry"
    say(f"[1/4] environment {folder}, {on}")
    venv.EnvBuilder(with_pip=True, system_site_packages=bool(base)).create(folder)
    if base:
        build_on(folder)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "-q", "-U", "pip")  # it resolves and unpacks in a third of the time of the one in Python 3.11
    install = [*pip, "install", "-q", "--no-compile"]  # `compile_files` does that on all cores
    constraints = folder / "sterf-constraints.txt"
    pairs = [f"{name}=={version}" for name, version in base.items()] or list(TESTED_PAIR)
    if "torchaudio" not in base:  # SpikingJelly imports it, and it does not load with a torch that is older than itself
        pairs.append(f"torchaudio<={pairs[0].removeprefix('torch==').split('+')[0]}")
    constraints.write_text("\n".join(pairs) + "\n")
    if base:
        say("[2/4] torch is there already")
    else:
        say(f"[2/4] installing {' '.join(TESTED_PAIR)} (several GB with CUDA libraries)")
        run(*install, *TESTED_PAIR, "setuptools<82")
    say("[3/4] installing sterf-plugins with OpenMMLab and the development tools")
    # The second -q keeps setuptools' warning of every editable package away.
    run(*install, "-q", "-c", str(constraints), "-e", ".[openmmlab,dev]")
    keep_headless_opencv(python, pip)
    compile_files(python, folder)
    say("[4/4] checking")
    run(python, "-m", "sterf_plugins", "doctor")
    stamp.write_text(json.dumps(current))
    say(f"ready after {time.time() - start:.0f} s: {folder}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to go on")
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))} (exit code {error.returncode})")
