"""Choose the golden arrays that travel with the repository: at most 6 MB that cover every block, mixer and kernel.

    python tests/golden/make_subset.py FOLDER_OF_ALL_GOLDEN_ARRAYS

The full set is tested where it is found (``STERF_GOLDEN``, or ``../shared/golden`` beside the repository).
"""

import json
import lzma
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save

HERE = Path(__file__).resolve().parent
SMALL = 100_000  # bytes; every file below is taken: all blocks, mixers, neurons and fields of small networks
BACKBONES = ("bb_det_mlpixer_t8e6", "bb_det_srb_t8e6")
FIELDS = {  # of a whole backbone with convolutions: all of the first two files, some maps of the others
    "erf_baseline_t8_params": None,
    "erf_inputs_t8": None,
    "erf_baseline_t8_centremaps": ("centre.ConvBlock1_2", "centre.block4_1_attn_proj_conv"),
    "erf_baseline_t8_refmaps": ("ref.block3_0_attn_proj_conv",),
}
TRACKING = ("losses", "gtp", "metrics", "crops")  # what trackers compute without their network
LEFT_OUT = ("gauss1d.npz",)  # nothing in the package computes it


def main() -> None:
    full = Path(sys.argv[1])
    for folder in ("sdtv3", "covariant", "sdtrack"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for path in (full / "covariant").glob("*.npz"):
        if path.name not in LEFT_OUT:
            shutil.copyfile(path, HERE / "covariant" / path.name)
    for name in TRACKING:
        shutil.copyfile(full / "sdtrack" / f"{name}.npz", HERE / "sdtrack" / f"{name}.npz")
    chosen = {p.stem: None for p in (full / "sdtv3").glob("*.safetensors") if p.stat().st_size < SMALL}
    for name, keys in (chosen | dict.fromkeys(BACKBONES) | FIELDS).items():
        tensors = load_file(full / "sdtv3" / f"{name}.safetensors")
        data = save({k: v for k, v in tensors.items() if keys is None or k in keys})
        (HERE / "sdtv3" / f"{name}.safetensors.xz").write_bytes(lzma.compress(data, preset=9))
    cases = json.loads((full / "sdtv3" / "manifest.json").read_text())["cases"]
    present = {p.name.removesuffix(".xz") for p in (HERE / "sdtv3").glob("*.xz")}
    cases = [{k: v for k, v in c.items() if k != "state_dict"} for c in cases if c.get("file") in present]
    (HERE / "sdtv3" / "manifest.json").write_text(json.dumps(dict(cases=cases), indent=0) + "\n")
    total = sum(p.stat().st_size for p in HERE.rglob("*") if p.is_file())
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
