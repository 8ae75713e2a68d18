"""Models of this package in the Hugging Face hub, by timm's own functions; all of it in local folders."""

import shutil

import pytest
import timm
import torch
from timm.models import model_entrypoint, save_for_hf
from timm.models._hub import save_config_for_hf

import sterf_plugins.timm
from sterf_plugins.activity import FiringRates, count_operations
from sterf_plugins.cli.loading import load_model
from sterf_plugins.erf import calibrate, compute_erf
from sterf_plugins.timm import write_model_card

OURS = [name for name in timm.list_models() if model_entrypoint(name).__module__.startswith("sterf_plugins.")]
SAVED = {  # name -> options, which config.json has to keep
    "sdtv3_nano": dict(mixer="srb", num_classes=7),
    "sdtv3_nano_srb": dict(stem="covariant", in_chans=2),
    "covrf_resnet18": dict(num_classes=3),
    "qkformer_10_384": dict(T=1, num_classes=3),
    "spikformer_8_384": dict(depth=1, T=2),
    "scale_covariant_net_spiking": dict(num_classes=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
@pytest.mark.sweep
def test_a_saved_folder_gives_the_model_back(name, tmp_path, monkeypatch):
    """From the folder, and from a hub's cache that holds the same files, as ``hf-hub:`` finds it without a network."""
    torch.manual_seed(0)
    x = torch.randn(2, SAVED[name].get("in_chans", 3), 64, 64)
    model = calibrate(timm.create_model(name, **SAVED[name]), x)
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    expected, maps = (
        model(x),
        timm.create_model(f"local-dir:{tmp_path}/saved", pretrained=True, features_only=True).eval(),
    )
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}/saved", pretrained=True).eval()(x), expected)
    assert torch.equal(maps(x)[-1], model.forward_features(x))

    commit = "0" * 40
    repository = tmp_path / "cache" / "models--me--mine"
    shutil.copytree(tmp_path / "saved", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = timm.create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path / "cache").eval()
    assert torch.equal(hub(x), expected)


@pytest.mark.slow
def test_every_name_is_rebuilt_from_its_saved_configuration(tmp_path, shallow):
    with torch.device("meta"):
        for name in OURS:
            model = timm.create_model(name, num_classes=5)
            save_config_for_hf(model, tmp_path / "config.json")
            again = timm.create_model(f"local-dir:{tmp_path}")
            shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model, again)]
            assert shapes[0] == shapes[1] and type(again) is type(model), name


def test_a_model_with_another_stem_than_its_name_says_is_refused(tmp_path):
    model = timm.create_model("resnet10t")
    sterf_plugins.timm.swap_stem(model)
    save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(RuntimeError, match="conv1"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


@pytest.mark.slow
def test_the_card_says_what_was_measured_and_leaves_the_model_alone(tmp_path):
    from huggingface_hub import ModelCard

    torch.manual_seed(0)
    images = torch.randn(3, 3, 64, 64)
    model = calibrate(timm.create_model("sdtv3_nano_srb", num_classes=10), images).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = write_model_card(tmp_path / "new", model, images, repo_id="me/nano", description="Trained on *noise*.")
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    card = ModelCard.load(path)
    assert card.data.library_name == "timm" and "spiking-neural-network" in card.data.tags
    assert card.data.license == "apache-2.0"
    text = card.text
    assert "# nano" in text and "Trained on *noise*." in text and 'create_model("hf-hub:me/nano"' in text
    model.eval()
    with torch.no_grad(), FiringRates(model) as rates:
        model(images)
    acs = count_operations(model, images).total.acs / 3e9
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    for row in (f"| parameters | {parameters:.2f} M |", f"| {acs:.3g} G |", f"| {rates.rate:.3f} |"):
        assert row in text
    assert all(f"| `{name}` | {layer.rate:.3f} |" in text for name, layer in rates.layers.items())
    fields = compute_erf(model, images, "stages.*", calibrate=False)
    for layer in (f"stages.{i}" for i in range(5)):
        assert f"| `{layer}` | {fields.numbers(layer)['area_50'].value:.2f}"[:-1] in text
    assert "](erf.png)" in text and (path.parent / "erf.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_card_of_a_network_that_never_saw_an_image_says_so(tmp_path):
    model = timm.create_model("sdtv3_nano", num_classes=0)
    text = write_model_card(tmp_path, model, torch.randn(1, 3, 32, 32), repo_id="me/x", layers="stages.4").read_text()
    assert "spike layers are silent" in text and "surrogate gradient" in text


@pytest.mark.slow
def test_a_card_is_of_a_model_that_timm_made(tmp_path):
    with pytest.raises(TypeError, match=r"`model` is a Linear, which timm has not made; give what timm\.create_model"):
        write_model_card(tmp_path / "new", torch.nn.Linear(1, 1), torch.zeros(1, 3, 8, 8), repo_id="me/x")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_card_of_a_network_without_spikes_has_no_firing_rates(tmp_path):
    model = timm.create_model("covrf_resnet18", num_classes=2)
    text = write_model_card(tmp_path, model, torch.randn(1, 3, 32, 32), repo_id="me/r").read_text()
    assert "fire" not in text and "synaptic" not in text and "| `layer4` |" in text


@pytest.mark.slow
def test_the_command_writes_a_folder_that_gives_the_model_back(forked, tmp_path, capsys):
    """``sterf card``: weights, settings and card; the repository of the hub holds just these files."""
    torch.manual_seed(0)
    spec = "sdtv3_nano(num_classes=3, levels=8)"
    model = calibrate(timm.create_model("sdtv3_nano", num_classes=3, levels=8), torch.randn(4, 3, 32, 32))
    torch.save(model.state_dict(), tmp_path / "last.pth")
    card = ["-m", "sterf_plugins", "card", spec, "last.pth", "--out", "mine", "--repo-id", "me/mine"]
    card += [
        "--num",
        "2",
        "--input-size",
        "32",
        "32",
        "--layers",
        "stages.0.downsample",
        "--description",
        "Trained on noise.",
    ]
    result = forked(*card, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ["README.md", "config.json", "erf.png", "model.safetensors"]
    assert result.stdout.split() == [f"mine/{name}" for name in names]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pth", "mine"]
    text = (tmp_path / "mine" / "README.md").read_text()
    assert "# mine" in text and "Trained on noise." in text and "Measured on 2 images of 3×32×32" in text
    again = timm.create_model(f"local-dir:{tmp_path}/mine", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    weights = f"{tmp_path}/mine/model.safetensors"  # which says of how many levels the spikes are
    load_model(spec, weights)
    assert not capsys.readouterr().err
    load_model("sdtv3_nano(num_classes=3)", weights)
    assert "weights that were saved with levels=8 are loaded into a model with levels=4" in capsys.readouterr().err

    (tmp_path / "mine" / "README.md").write_text("mine")
    for wrong, message in (
        (card, "mine exists; give another name, or --overwrite"),
        ([*card[:4], *card[5:]], "give either CHECKPOINT or --pretrained"),
    ):
        result = forked(*wrong, cwd=tmp_path)
        assert result.returncode == 2 and message in result.stderr, result.stderr
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
