"""Do the tests notice it when a line is lost? Loses one line in each of 30 files, one at a time, and runs the tests.

    python tests/mutations.py              # all, in a copy of the repository; 10 to 20 minutes
    python tests/mutations.py attention    # those of files with this in their path

Each line keeps a state, resets one, masks or scales something. At least 28 of the 30 must be noticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ERF = " ".join(
    f"tests/erf/test_{name}.py" for name in ("compute", "models", "layouts", "grids", "order", "no_map", "time")
)

# file in the package, what stands there, what it becomes, the tests that should notice
MUTATIONS = [
    ("functional/attention.py", "(vk @ q) * scale", "vk @ q", "tests/functional/test_attention.py"),
    ("functional/integer_fire.py", "out if ctx.norm == 1 else out.div_(ctx.norm)", "out", "tests/functional"),
    ("functional/batch_norm.py", "scale * weight)", "scale)", "tests/functional"),
    ("functional/strides.py", ".copy_(x)\n\n\ndef restrided", ".zero_()\n\n\ndef restrided", "tests/backbones"),
    (
        "functional/leaky_integrator.py",
        'response * (1 - scales) if gain == "area" else response',
        "response",
        "tests/stems",
    ),
    ("functional/depthwise.py", "parts.append(part)", "parts.append(part.zero_())", "tests/functional"),
    (
        "layers/spiking_nodes.py",
        "node.reset()\n        return",
        "return",
        "tests/layers tests/openmmlab/test_layers.py",
    ),
    (
        "layers/closed_form.py",
        "torch.full_like(x[0], node.v_reset or 0.0)\n        direct",
        "torch.zeros_like(x[0])\n        direct",
        "tests/layers",
    ),
    ("layers/attention.py", " / math.sqrt(dim // num_heads)", "", "tests/backbones/test_golden.py"),
    ("backbones/sdt_v1.py", "q * self.mask((k * v)", "q * ((k * v)", "tests/backbones/test_zoo.py"),
    ("backbones/meta_sdt.py", ".copy_(border)", "", "tests/backbones/test_zoo.py"),
    ("backbones/recompute.py", 'callback(setattr, norm, "momentum", momentum)', "callback(int)", "tests/backbones"),
    ("stems/fields/covariant_conv.py", "conv.bias.copy_(self.bias)", "pass", "tests/stems tests/deploy"),
    ("stems/fields/temporal.py", "state.detach()", "state", "tests/stems"),
    ("stems/spatio_temporal.py", "self.act(y), state", "self.act(y), None", "tests/stems"),
    (
        "tracking/shape_tracker.py",
        "unit(y, next(old_states))",
        "unit(y, None)",
        "tests/tracking/test_shape_tracker.py",
    ),
    (
        "tracking/openmmlab.py",
        "self.tracker(frames.transpose(0, 1), state)",
        "self.tracker(frames.transpose(0, 1))",
        "tests/tracking",
    ),
    ("tracking/dataset.py", "(path, k * span)", "(path, 0)", "tests/events"),
    ("undisturbed.py", '(p, "requires_grad", False)', '(p, "requires_grad", True)', ERF),
    ("erf/calibrate.py", "norm.reset_running_stats()", "pass", "tests/erf"),
    ("erf/numbers/estimate.py", " - self.value() ** 2", "", "tests/erf/test_estimate.py"),
    (
        "erf/passes/starts.py",
        "passes.start_afresh()\n    # A network",
        "pass\n    # A network",
        "tests/erf/test_states.py",
    ),
    ("erf/result.py", "(value / scale)", "value", "tests/erf"),
    ("firing.py", "(k - 0.5) / norm)", "k - 0.5)", "tests/activity"),
    ("activity/operations.py", "            start_afresh()", "            pass", "tests/activity"),
    ("activity/operations.py", "int(uses.sum()) * alike", "int(uses.sum())", "tests/activity"),
    (
        "activity/energy.py",
        'positive_int("levels", levels) * positive_int("steps", steps)',
        'positive_int("levels", levels)',
        "tests/activity",
    ),
    ("activity/energy.py", "+ 2 * o.acs * self._word", "+ o.acs * self._word", "tests/activity"),
    ("activity/maps.py", "(levels - 0.5) / norm).all(0)", "(levels - 0.5) / norm).any(0)", "tests/activity"),
    ("deploy/spike_driven.py", "sums / self.norm", "sums", "tests/deploy"),
    ("deploy/reparameterize.py", "copy.deepcopy(model).eval().double()", "model.eval().double()", "tests/deploy"),
    ("plugins.py", "_scan.cache_clear()", "pass", "tests/test_plugins.py"),
    (
        "openmmlab/backbones/freezing.py",
        "self.get_submodule(name).eval()",
        "pass",
        "tests/openmmlab/test_timm_backbone.py",
    ),
    ("layers/drop_path.py", "x.transpose(0, 1)).transpose(0, 1)", "x)", "tests/timm/test_creation.py"),
    ("backbones/temporal.py", "x.permute(1, 2, 0)).permute(2, 0, 1)", "x)", "tests/backbones/test_zoo.py"),
    (
        "timm/contract.py",
        "super().load_state_dict(_under_our_names(state_dict)",
        "super().load_state_dict(state_dict",
        "tests/timm/test_creation.py",
    ),
    ("checkpoints/reading.py", r"^(module\.|_orig_mod\.)+", r"^(module\.)+", "tests/checkpoints"),
]


def main() -> int:
    """Print each mutation and what the tests said; return the exit code."""
    wanted = [m for m in MUTATIONS if not sys.argv[1:] or any(word in m[0] for word in sys.argv[1:])]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "main"
        skipped = shutil.ignore_patterns(".git", ".venv", ".matrix", "work_dirs", "data", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=skipped, symlinks=True)
        golden = os.environ.get("STERF_GOLDEN", str(ROOT.parent / "shared" / "golden"))
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            **({"STERF_GOLDEN": golden} if Path(golden).is_dir() else {}),
        }
        for name, old, new, tests in wanted:
            path = copy / "sterf_plugins" / name
            original = path.read_text()
            if original.count(old) != 1:
                raise SystemExit(f"{name}: {old!r} is there {original.count(old)} times; mend the list of mutations")
            path.write_text(original.replace(old, new))
            command = [sys.executable, "-m", "pytest", "-qx", "--sample", "-p", "no:cacheprovider", *tests.split()]
            start = time.perf_counter()
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            path.write_text(original)
            noticed = done.returncode == 1
            first = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
            print(
                f"{'noticed' if noticed else 'MISSED '} {time.perf_counter() - start:5.0f} s  {name}: {old!r}  {first[:110]}",
                flush=True,
            )
            if not noticed:
                missed.append(name)
    print(
        f"{len(wanted) - len(missed)} of {len(wanted)} noticed" + (f"; missed: {', '.join(missed)}" if missed else "")
    )
    return int(len(missed) > len(MUTATIONS) - 28)


if __name__ == "__main__":
    sys.exit(main())
