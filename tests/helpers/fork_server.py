"""Runs programs in forks of one process that has imported the libraries: the same programs, without seconds of imports.

Reads jobs from standard input, one JSON object per line (argv, cwd, environment, out, err, processes), and answers each
with its exit code. Several processes are the ranks of one distributed program, as ``torchrun`` starts them.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

from many_runs import prepare_for_many_runs

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print while they are imported is no answer
gc.disable()  # until `prepare_for_many_runs`

import sterf_plugins  # noqa: E402

sterf_plugins.setup()

import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.pyplot  # noqa: E402, F401
import mmdet.apis  # noqa: E402
import mmdet.engine  # noqa: E402
import mmdet.visualization  # noqa: E402, F401
import mmengine.runner  # noqa: E402, F401
import mmseg.apis  # noqa: E402
import mmseg.datasets  # noqa: E402
import mmseg.engine  # noqa: E402
import mmseg.evaluation  # noqa: E402, F401
import PIL.Image  # noqa: E402
import torch.utils.cpp_extension  # noqa: E402, F401  (which mmengine imports to tell the environment)

import sterf_plugins.cli.banner  # noqa: E402
import sterf_plugins.cli.loading  # noqa: E402
import sterf_plugins.cli.training  # noqa: E402
import sterf_plugins.events  # noqa: E402
import sterf_plugins.mixers  # noqa: E402
import sterf_plugins.openmmlab.events  # noqa: E402
import sterf_plugins.openmmlab.hooks  # noqa: E402
import sterf_plugins.timm  # noqa: E402
from sterf_plugins import plugins  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402

PIL.Image.init()
# The libraries of the extra [events], and what each `torch.load` imports since PyTorch 2.7.
for name in ("dv_processing", "faery", "h5py", "torch.utils.serialization.config"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
prepare_for_many_runs()
for name in (
    "mask-rcnn_sdtv3-t-srb_fpn_shapes",
    "fpn_sdtv3-t-srb_shapes",
):  # the lists of configs that `prepare_for_many_runs` keeps
    load_config(f"sterf_plugins::shapes/{name}.py")


def start(program: str, *arguments: str) -> None:
    """Run what ``python program arguments`` runs: a file, ``-c`` and code, or ``-m`` and a module."""
    sys.argv = [program, *arguments]
    if program == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[1:]], ""
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
    elif program == "-m":
        sys.argv, sys.path[0] = list(arguments), ""
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")


def run_job(job: dict) -> int:
    """Run the program in this process, and return the exit code that Python would end with."""
    signal.alarm(400)  # seconds after which a program that hangs is ended
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.path[1:1] = filter(None, job["environment"].get("PYTHONPATH", "").split(os.pathsep))
    plugins.rescan()  # of those folders
    try:
        start(*job["argv"])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def fork(job: dict) -> int:
    """Start a job in a new process; returns its id."""
    child = os.fork()
    if child == 0:
        code = run_job(job)
        for process in multiprocessing.active_children():  # as Python does at its end, which this process leaves out
            process.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return child


def ranks(job: dict) -> list[dict]:
    """The job of each of its processes."""
    number = job["processes"]
    if number == 1:
        return [job]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = dict(WORLD_SIZE=number, LOCAL_WORLD_SIZE=number, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    places = [dict(RANK=rank, LOCAL_RANK=rank, **world) for rank in range(number)]
    return [job | dict(environment=job["environment"] | {k: str(v) for k, v in p.items()}) for p in places]


for line in sys.stdin:
    running = {fork(job) for job in ranks(json.loads(line))}
    codes = []
    while running:
        child, status = os.wait()
        running.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1]:  # the others would wait for it
            for other in running:
                os.kill(other, signal.SIGKILL)
    print(next(filter(None, codes), 0), file=answers, flush=True)
