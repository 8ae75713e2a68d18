"""Shared fixtures: golden arrays, and small real data sets."""

import ctypes
import gc
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from golden_arrays import Golden, golden_folder
from many_runs import prepare_for_many_runs

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the test processes, and the tools that they start, share the cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as in jobs in the background of a script, and so in their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


gc.disable()  # until `prepare_for_many_runs`: importing all test files takes an eighth less time


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option for those who want an answer in minutes."""
    parser.addoption(
        "--sample", action="store_true", help="of each sweep run the two ends, and nothing that is marked as whole"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    """Run the files with slow tests first, so that no process is left alone with one at the end.

    What starts a process of its own is slow, whatever it does there.
    """
    for item in items:
        if {"forked", "installed", "distributions"} & {*item.fixturenames}:
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if config.getoption("--sample"):
        sweeps: dict[tuple[Path, str], list] = {}
        for item in items:
            if item.get_closest_marker("sweep"):
                sweeps.setdefault((item.path, item.originalname), []).append(item)
        inner = [item for sweep in sweeps.values() for item in sweep[1:-1]]
        skipped = {*inner, *(item for item in items if item.get_closest_marker("whole"))}
        config.hook.pytest_deselected(items=[*skipped])
        items[:] = [item for item in items if item not in skipped]


def pytest_collection_finish() -> None:
    """All test files are imported by now."""
    prepare_for_many_runs()


ENOUGH = 4 << 30  # bytes


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item) -> None:
    """Let go of what tests have trained, which is in circles, and of what glibc keeps: a process had grown to 13 GB."""
    if sys.platform == "linux":
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if resident > ENOUGH and trim is not None:
            gc.collect()
            trim(0)


@pytest.fixture(autouse=True)
def seeded():
    """Each test has the same random numbers whenever and wherever it runs: a bound that holds once holds again."""
    import numpy as np
    import torch  # not above: it reads the number of threads when it is imported

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_visualizer():
    """mmengine keeps the visualizers of a process by name, and the next test would write into the folder of this one."""
    yield
    if "mmengine.visualization" in sys.modules:
        from mmengine.visualization import Visualizer

        kinds = [Visualizer]
        for kind in kinds:
            kind._instance_dict.clear()
            kinds += kind.__subclasses__()


@pytest.fixture
def shallow(monkeypatch):
    """New SDT-V3 models have one block of each kind, not twelve in all: tracing takes a second for each."""
    from sterf_plugins.backbones import sdt_v3

    monkeypatch.setattr(sdt_v3, "DEPTHS", (1, 1, 1, 1, 1))


@pytest.fixture(scope="session")
def covariant_golden():
    """A function from a file's name to its golden arrays of the covariant receptive fields."""
    import numpy as np

    return lambda name: dict(np.load(golden_folder() / "covariant" / f"{name}.npz"))


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(golden_folder() / "sdtv3")


@pytest.fixture(scope="session")
def subset() -> Golden:
    """The arrays that are kept in the repository."""
    return Golden(ROOT / "tests" / "golden" / "sdtv3")


@pytest.fixture(scope="session")
def real_images(tmp_path_factory) -> Path:
    """Two images of COCO and three of ADE20K with their official annotations, under a path with a space."""
    folder = Path(os.environ.get("STERF_REAL_IMAGES", ROOT.parent / "shared" / "real_images")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; set STERF_REAL_IMAGES to their folder")
    link = tmp_path_factory.mktemp("data") / "real images"
    link.symlink_to(folder)
    return link


@pytest.fixture(scope="session")
def event_videos(event_tool, tmp_path_factory):
    """A function that makes a folder of ``count`` circles and as many squares for the 48x48 tracking configs."""

    def make(count: int) -> Path:
        out = tmp_path_factory.mktemp("events") / "tiny"
        options = f"--single --shapes circle square --videos {count} --frames 33 --size 12 --velocity 0.4"
        event_tool(out, *options.split())
        return out

    return make


@pytest.fixture(scope="session")
def event_tool(forked):
    """``event_tool(out, *options, check=True)``: write event videos into ``out`` with the real tool."""

    def run(out: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
        result = forked(ROOT / "tools" / "dataset_tools" / "make_events.py", out, *options)
        assert not check or result.returncode == 0, result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """``forked(program, *arguments, cwd=None, environment=None, processes=1, fresh=False)``: Python in a fork.

    Runs what ``python program arguments`` runs, in a fork of a process that has the libraries imported. ``environment``
    adds variables; with more ``processes`` than one they are the ranks of a distributed program, as torchrun starts them.
    This saves the seconds of the imports, but hides an import that a tool lacks: ``fresh=True`` runs it in an ordinary
    process. Returns a ``subprocess.CompletedProcess`` with the output as text.
    """
    folder = tmp_path_factory.mktemp("forked")
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "helpers" / "fork_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "server").open("w"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a process with threads must not be forked
    )

    def run(*command, cwd=None, environment=None, processes=1, fresh=False) -> subprocess.CompletedProcess:
        argv, added = [str(c) for c in command], {k: str(v) for k, v in (environment or {}).items()}
        if fresh:
            options = dict(cwd=cwd, env={**os.environ, **added}, capture_output=True, text=True, timeout=400)
            return subprocess.run([sys.executable, *argv], **options)
        out, err = (folder / name for name in ("out", "err"))
        out.unlink(missing_ok=True)
        err.unlink(missing_ok=True)
        places = dict(cwd=str(cwd or Path.cwd()), out=str(out), err=str(err))
        print(
            json.dumps(dict(argv=argv, environment=added, processes=processes, **places)), file=server.stdin, flush=True
        )
        answer = server.stdout.readline()
        assert answer, (folder / "server").read_text()[-2000:]
        return subprocess.CompletedProcess(argv, int(answer), out.read_text(), err.read_text())

    yield run
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture(scope="session")
def shapes(forked, tmp_path_factory) -> Path:
    """A small shapes data set in COCO and ADE20K format, made by the real tool."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    tool = ROOT / "tools" / "dataset_tools" / "make_shapes.py"
    result = forked(tool, out, "--num-train", "12", "--num-val", "6", "--size", "96", "--seed", "3")
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def distributions(tmp_path_factory) -> Path:
    """A folder with the source distribution of this repository, and the wheel that is built from it alone.

    One test process builds them for all, since two builds at a time write into the same folder of the repository.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "dist.lock"):
        out = shared / "dist"
        if not list(out.glob("*.whl")):
            command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
            subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def wheel(distributions) -> zipfile.ZipFile:
    """The wheel that is built of this repository."""
    return zipfile.ZipFile(next(distributions.glob("sterf_plugins-*.whl")))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """``installed(code, *arguments, cwd=None)``: run Python code where the wheel is installed and nothing else of ours is.

    Returns a ``subprocess.CompletedProcess``; code that ends with ``.py`` is the path of a program.
    """
    site = tmp_path_factory.mktemp("site")
    wheel.extractall(site)

    def run(code, *arguments, cwd) -> subprocess.CompletedProcess:
        program = [str(code)] if str(code).endswith(".py") else ["-c", code]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, *program, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)

    return run


@pytest.fixture(scope="session")
def trained(forked, shapes, tmp_path_factory):
    """``trained(task)``: config that a short training of ``tools/train.py`` wrote down, and its checkpoint.

    The task is "det" for a Mask R-CNN, "seg" for a Semantic FPN, both on ``shapes``.
    """
    done: dict[str, tuple[Path, Path]] = {}

    def train(task: str) -> tuple[Path, Path]:
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            phases = ("train", "val", "test")
            if task == "det":
                name, end = "mask-rcnn_sdtv3-t-srb_fpn_shapes.py", "epoch_1.pth"
                data = [f"{p}_dataloader.dataset.data_root={shapes}/" for p in phases]
                data += [f"{p}_evaluator.ann_file={shapes}/annotations/instances_val2017.json" for p in phases[1:]]
                data += ["train_cfg.max_epochs=1", "model.train_cfg.rcnn.sampler.num=32"]
            else:
                name, end = "fpn_sdtv3-t-srb_shapes.py", "iter_2.pth"
                data = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in phases]
                data += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
            options = [*data, "default_hooks.erf=None", "train_dataloader.batch_size=2"]
            config = ROOT / "configs" / "shapes" / name
            result = forked(ROOT / "tools" / "train.py", config, "--work-dir", folder, "--cfg-options", *options)
            assert result.returncode == 0, result.stderr[-2000:]
            done[task] = folder / name, folder / end
        return done[task]

    return train
