"""Runs tools in forks of one process that has imported the libraries: the same tools, without seconds of imports.

Reads jobs from standard input, one JSON object per line (argv, cwd, out, err), and answers each with its exit code.
"""

import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

import sterf_plugins

sterf_plugins.setup()

import mmdet.models  # noqa: E402, F401
import mmengine.runner  # noqa: E402, F401
import mmseg.models  # noqa: E402, F401

import sterf_plugins.timm  # noqa: E402


def run_job(job: dict) -> int:
    """Run the tool in this process as ``python argv[0] argv[1:]`` would, and return its exit code."""
    signal.alarm(400)  # seconds after which a tool that hangs is ended
    os.chdir(job["cwd"])
    for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.argv = job["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = run_job(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
