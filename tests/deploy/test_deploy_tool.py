"""The tool that folds a model and writes it for deployment: files that others read, and what it refuses."""

import json
import runpy
from pathlib import Path

import pytest
import timm
import torch

from sterf_plugins.deploy.probe import largest_error
from sterf_plugins.erf import calibrate

TOOL = Path(__file__).resolve().parents[2] / "tools" / "model_converters" / "deploy.py"


@pytest.mark.slow
def test_constants_are_refused(forked, tmp_path):
    """Weights of a new model, saved: with the initial statistics of its norms no spike reaches the classifier."""
    import sterf_plugins.timm  # noqa: F401

    torch.save(timm.create_model("sdtv3_nano").state_dict(), tmp_path / "new.pth")
    result = forked(TOOL, "sdtv3_nano", tmp_path / "new.pth", "--input-size", "32", "32", "--out", tmp_path / "out")
    assert result.returncode == 2 and "the outputs are constants (0, …)" in result.stderr, result.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_detector_of_two_stages_is_refused(forked, tmp_path):
    config = "sterf_plugins::shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
    result = forked(TOOL, config, "--input-size", "64", "64", "--out", tmp_path)
    assert result.returncode == 2 and f"error: {config} does not run on images alone" in result.stderr


@pytest.mark.slow
def test_files_and_facts(forked, tmp_path):
    """An untrained model gets statistics, so that the numbers that are compared are not zeros."""
    options = ["--input-size", "32", "32", "--out", tmp_path, "--repeats", "1", "--spike-driven"]
    arch = dict(embed_dims=[8, 16, 24, 32], num_heads=2, depths=[1, 1, 1, 1, 1])
    result = forked(TOOL, f"small=sdtv3_nano_srb(arch={arch})", *options, fresh=True)
    assert result.returncode == 0, result.stderr
    assert "random weights, BatchNorm statistics of 8 noise inputs" in result.stdout
    assert "spike-driven, in float64: largest relative difference" in result.stdout
    assert "values up to 0" not in result.stdout.replace("up to 0.", "")
    facts = json.loads((tmp_path / "small.json").read_text())
    assert facts["float64_error"] < 1e-9 and facts["export_error"] < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # of torch.export.load
def test_neurons_over_time_are_written_with_operators_of_pytorch(forked, tmp_path):
    """Those of SpikingJelly are one that a program without it does not know."""
    spec = "lif=spikformer_8_384(depth=1,dim=16,num_heads=2)"
    result = forked(TOOL, spec, "--input-size", "32", "32", "--out", tmp_path, "--repeats", "1")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "lif.json").read_text())["export_error"] < 1e-5
    calls = [n.target for n in torch.export.load(tmp_path / "lif.pt2").graph.nodes if n.op == "call_function"]
    assert len(calls) > 100 and {getattr(call, "namespace", "aten") for call in calls} == {"aten"}


class Airy(torch.nn.Module):
    """A function that ONNX does not have."""

    def forward(self, x):
        return torch.special.airy_ai(x)


@pytest.mark.slow
def test_a_model_that_onnx_cannot_hold(tmp_path):
    program = torch.export.export(Airy(), (torch.zeros(2),))
    write_onnx = runpy.run_path(str(TOOL))["write_onnx"]
    with pytest.raises(ValueError, match=r"^--onnx: PyTorch .* cannot write this model \(.*airy_ai.*; a newer one may"):
        write_onnx(program, ["x"], torch.zeros(2), tmp_path / "airy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["1x4", pytest.param("4x1", marks=pytest.mark.whole)])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # of torch.export.load
def test_a_tracker_is_written(forked, tmp_path, variant):
    """On other inputs than those of the export the files give what the network gives in float64.

    PyTorch reads them without SpikingJelly. The optimiser of ONNX takes minutes for a network over time.
    """
    from sterf_plugins.cli.erf.tracker_inputs import tracker_inputs
    from sterf_plugins.cli.loading import load_model

    network = dict(arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2, depths=[1, 1, 1, 1, 1]), head_width=16)
    sizes = dict(dataset=dict(template_size=64, search_size=128))
    config = f"sterf_plugins::sd_track/sdtrack-tiny-{variant}_conv_fe108.py"
    spec = f"tracker={config}(model={network}, test_dataloader={sizes})"
    torch.manual_seed(0)
    loaded = load_model(spec)
    pairs = tracker_inputs("noise", loaded, 8, seed=1)
    calibrate(loaded.model, torch.cat([pair["search"] for pair in pairs], -4))
    torch.save(loaded.model.state_dict(), tmp_path / "weights.pth")
    onnx = ["--onnx"] if variant == "1x4" and torch.__version__ >= "2.7" else []  # 2.6 cannot write this network
    result = forked(TOOL, spec, tmp_path / "weights.pth", "--out", tmp_path, "--repeats", "1", *onnx)
    assert result.returncode == 0, result.stderr
    facts = json.loads((tmp_path / "tracker.json").read_text())
    lead = [1] if variant == "1x4" else [4, 1]
    assert facts["inputs"] == dict(template=[*lead, 3, 64, 64], search=[*lead, 3, 128, 128])
    assert facts["float64_error"] < 1e-9 and facts["export_error"] < 1e-5 and facts.get("onnx_error", 0) < 1e-5
    program, pair = torch.export.load(tmp_path / "tracker.pt2").module(), pairs[0]
    with torch.no_grad():
        found = [program(pair["template"], pair["search"])]
    if onnx:
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(tmp_path / "tracker.onnx", providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(None, {name: x.numpy() for name, x in pair.items()})
        found.append(dict(zip(names, map(torch.from_numpy, values), strict=True)))
    network = loaded.model.network.double()
    with torch.no_grad():
        expected = network(**{name: x.double() for name, x in pair.items()})._asdict()
    assert all(values.std() > 1e-3 for values in expected.values())
    for values in found:
        assert values.keys() == expected.keys()
        assert max(largest_error(values[name].double(), expected[name]) for name in expected) < 1e-5
    refused = forked(TOOL, spec, "--out", tmp_path / "a", "--input-size", "64", "64")
    assert refused.returncode == 2 and "--input-size is for models of one image" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "scale_covariant_net(dims=(8,8),depths=(1,0),strides=(2,2),scales=(1,2))",
        "vit=vit_tiny_patch16_224(img_size=32,depth=1)",
    ],
)
def test_a_model_without_norms_to_fold_is_written_as_it_is(forked, tmp_path, spec):
    """Its norms have the statistics of several maps, or are LayerNorms."""
    result = forked(TOOL, spec, "--input-size", "32", "32", "--out", tmp_path, "--repeats", "1")
    assert result.returncode == 0, result.stderr
    assert "not folded: " in result.stdout and "in float64" not in result.stdout
    (file,) = tmp_path.glob("*.json")
    facts = json.loads(file.read_text())
    assert facts["export_error"] < 1e-5 and facts["speed_up"] == {}
    assert file.with_suffix(".pt2").is_file()
