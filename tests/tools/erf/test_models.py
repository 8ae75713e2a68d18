"""tools/erf.py on configs, trackers, and models of several inputs, signals and videos."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sterf_plugins.cli.erf.inputs import entries, given_inputs
from sterf_plugins.cli.loading import Loaded
from sterf_plugins.erf import ERFResult
from sterf_plugins.erf.calibrate import tracking_norms
from sterf_plugins.erf.figures.wording import named
from sterf_plugins.tracking.fields import LAYERS

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--num", "2", "--input-size", "32", "48"]


@pytest.mark.slow
def test_configs_of_mmseg_and_mmdet(run, compute, shapes, tmp_path):
    config = tmp_path / "own.py"
    base = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    data = f"dict(dataset=dict(data_root={str(shapes) + '/ade'!r}))"
    config.write_text(f"_base_ = {str(base)!r}\nval_dataloader = {data}\n")
    result = run(config, "--images", "val", *SMALL, "--layers", "neck", "--out", tmp_path / "a")
    assert "neck[3]" in result.stdout
    result = compute("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", *SMALL, "--out", tmp_path / "b")
    assert named(result, "backbone[3]") == "backbone[3] (stage 3, stride 32)"


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    """Config, checkpoint and data set of a small tracker with four time steps."""
    import tracking_data

    from sterf_plugins.cli.loading import load_model

    folder = tmp_path_factory.mktemp("tracker")
    config = folder / "small_tracker.py"
    config.write_text(
        f"_base_ = [{str(ROOT / 'configs/sd_track/sdtrack-tiny-4x1_conv_fe108.py')!r}]\n"
        "model = dict(arch=dict(embed_dims=[8, 8, 16, 16], num_heads=2), head_width=16)\n"
        "test_dataloader = dict(dataset=dict(template_size=64, search_size=128))\n"
    )
    tracking_data.make(folder / "data", "fe108", "test", ["a", "b"], T=4)
    torch.manual_seed(0)
    model = load_model(str(config)).model
    pair = [30 * torch.poisson(torch.full((2, 4, 3, side, side), 0.4)) for side in (64, 128)]
    for norm in tracking_norms(model):
        norm.momentum = None  # one pass gives its statistics, so that neurons fire
    model.train()(*pair)
    torch.save(dict(state_dict=model.state_dict()), folder / "weights.pth")
    return [config, folder / "weights.pth"], folder


@pytest.mark.slow
def test_a_tracker_has_fields_over_template_and_search_region(run, compute, tracker):
    command, folder = tracker
    out = folder / "out"
    options = ["--layers", "backbone.stages.4.blocks", "head.branches.score", "--position", "peak", "--num", "3"]
    done = run(*command, "--images", folder / "data", *options, "--out", out, "--json")
    result = ERFResult.load(out / "small_tracker.npz")
    for entry, side in (("template", 64), ("search", 128)):
        name = f"head.branches.score@{entry}"
        assert result.spatial[name].shape == (side, side) and result.spatial[name].any()
        assert result.temporal[name].shape == (4,) and result.temporal[name].any()
        assert result.numbers(name)["area_90"].error > 0
        assert name in json.loads(done.stdout)["small_tracker"]
    assert "backbone.stages.4.blocks@search" in result.spatial
    assert result.info["num_inputs"] == 3 and (out / "report.html").is_file() and (out / "lags.png").is_file()
    noise = ["--num", "1", "--out", folder / "noise"]
    assert "head.branches.size@template" in compute(*command, *noise, "--layers", "head.branches.*").spatial
    fields = compute(*command, *noise, "--overwrite").spatial  # of the first stages over the search region alone
    assert {name.partition("@")[0] for name in fields} == set(LAYERS)


@pytest.mark.slow
def test_mistakes_with_trackers(run, tracker):
    command, folder = tracker
    for options, message in (
        (["--check", "occlusion"], "--check is for models of one image"),
        (["--images", folder / "nowhere"], "is no folder"),
    ):
        done = run(*command, "--num", "2", "--out", folder / "mistakes", *options, check=False)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    done = run("sdtv3_nano", *SMALL, "--position", "peak", "--out", folder / "mistakes", check=False)
    assert done.returncode == 2 and "is no tracker" in done.stderr, done.stderr[-1500:]


@pytest.mark.slow
def test_several_inputs_and_videos(run, compute, tmp_path, monkeypatch):
    module = tmp_path / "pair_net.py"
    module.write_text(
        "import torch\n"
        "class Pair(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.head = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 2, 1)\n"
        "    def forward(self, search, template):\n"
        "        return self.head(self.conv(search).tanh() * self.conv(template).mean((2, 3), keepdim=True))\n"
        "class Video(torch.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(torch.nn.Conv3d(3, 2, 3, padding=1), torch.nn.Tanh())\n"
    )
    shapes = ["--inputs", "search=3x24x32", "template=3x16x16", "--num", "4", "--layers", "head"]
    run("pair_net:Pair", *shapes, "--vector", "svg", "--out", "pair", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert (tmp_path / "pair" / "maps.svg").is_file()
    pair = ERFResult.load(tmp_path / "pair" / "pair_net-Pair.npz")
    assert pair.spatial["head@search"].shape == (24, 32) and pair.spatial["head@template"].shape == (16, 16)
    assert "4 noise inputs of search 3×24×32, template 3×16×16" in (tmp_path / "pair" / "report.html").read_text()
    video = ["--inputs", "3x5x16x16", "--axes", "NCTHW", "--num", "2", "--layers", "1", "--out", "video"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    frames = compute("pair_net:Video", *video, "--position", "3,8,8").frames["1"]
    assert frames.shape == (5,) and list(np.flatnonzero(frames)) == [2, 3, 4]


def test_noise_of_the_shapes_that_are_given():
    options, loaded = input_options(inputs=["3x8x6", "3x4x4"], wrt=["1"])
    pair = given_inputs(options, loaded)
    assert [tuple(x.shape) for x in pair] == [(5, 3, 8, 6), (5, 3, 4, 4)] and entries(options) == [1]
    assert torch.equal(pair[0], given_inputs(options, loaded)[0])  # the seed decides
    options.inputs, options.axes, options.wrt = ["7x3x8x6"], "TNCHW", ["search"]
    assert given_inputs(options, loaded).shape == (7, 5, 3, 8, 6) and entries(options) == ["search"]


def input_options(**options):
    """The options of the tool about inputs, and a model that takes RGB images."""
    unused = dict(theory=False, check=[], sizes=None, input_size=None, time_steps=None, temporal=False, images="noise")
    loaded = Loaded("net", torch.nn.Identity(), (8, 8), (100.0, 110.0, 120.0), (50.0, 50.0, 50.0))
    return Namespace(**(unused | dict(axes=None, wrt=None, num=5, seed=0) | options)), loaded


def test_inputs_from_files(tmp_path):
    """Arrays with their batch axis, and folders of images, which are normalised as the model's images are."""
    clips = np.random.default_rng(0).standard_normal((4, 7, 2, 8, 6)).astype(np.float32)
    np.save(tmp_path / "clips.npy", clips)
    options, loaded = input_options(inputs=[f"{tmp_path}/clips.npy"], axes="TNCHW")
    np.testing.assert_array_equal(given_inputs(options, loaded), clips[:, :5])  # the first five of seven

    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (12, 9), (10 * i, 110, 120)).save(folder / f"{i}.png")
    np.save(tmp_path / "search.npy", clips[0, :5])
    options, _ = input_options(inputs=[f"search={tmp_path}/search.npy", f"template={folder}@3x4x4"])
    pair = given_inputs(options, loaded)
    np.testing.assert_array_equal(pair["search"], clips[0, :5])
    assert pair["template"].shape == (5, 3, 4, 4) and not pair["template"][:, 1:].any()
    assert torch.allclose(pair["template"][:, 0, 0, 0], torch.tensor([-2.0, -1.8, -1.6, -1.4, -1.2]))

    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    for source, message in (("text.npy", "is no readable array"), ("empty.npy", "is no readable array"),
                            ("photos@1x4x4", "are 3xROWSxCOLUMNS"), ("none.npy", "give a shape such as 3x64x64")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            given_inputs(input_options(inputs=[f"{tmp_path}/{source}"])[0], loaded)
    loaded.config = object()
    with pytest.raises(ValueError, match=r"net takes images: give --images DIR, val or noise, and --input-size H W"):
        given_inputs(options, loaded)
