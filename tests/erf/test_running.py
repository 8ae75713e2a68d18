"""Computations that are interrupted, or shared by processes: nothing is lost, and all have the same result."""

import numpy as np
import pytest
import torch
from scaled import Scale, scaled
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import FieldCheck, calibrate, compute_erf
from sterf_plugins.erf.inputs.batches import Reading

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)


def test_progress_is_told():
    seen = []
    compute_erf(nn.Sequential(Scale()), scaled(5), "0", batch_size=2, progress=lambda *a: seen.append(a))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.slow
def test_an_interrupted_computation_goes_on_where_it_was(tmp_path):
    model, x, state = SDTV3(NANO, "srb"), torch.randn(7, 3, 32, 32), tmp_path / "deep" / "erf.state"
    layers = ["stages.1", "stages.2"]
    whole = compute_erf(model, x, layers, batch_size=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_erf(model, x, layers, batch_size=2, progress=stop, state=state)
    assert [p.name for p in state.parent.iterdir()] == ["erf.state"]
    seen = []
    resumed = compute_erf(model, x, layers, batch_size=2, progress=lambda *a: seen.append(a), state=state)
    assert seen == [(4, 7), (6, 7), (7, 7)] and not state.exists()
    for layer in layers:
        assert np.array_equal(whole.spatial[layer], resumed.spatial[layer])
        assert whole.numbers(layer) == resumed.numbers(layer)
    with pytest.raises(KeyboardInterrupt):
        compute_erf(model, x, layers, batch_size=2, progress=stop, state=state)
    other = compute_erf(model, x, "stages.1", batch_size=2, state=state)  # not what the file holds: from the start
    assert np.array_equal(other.spatial["stages.1"], whole.spatial["stages.1"])
    with pytest.raises(KeyboardInterrupt):
        compute_erf(model, x, layers, batch_size=2, progress=stop, state=state)
    model.stages[0].downsample.conv.weight.data *= 2  # other weights: from the start, too
    again = compute_erf(model, x, layers, batch_size=2, state=state)
    assert np.array_equal(again.spatial["stages.1"], compute_erf(model, x, layers, batch_size=2).spatial["stages.1"])


def test_a_file_that_is_no_state_is_kept(tmp_path):
    text, array = tmp_path / "notes.txt", tmp_path / "x.npz"
    text.write_text("mine")
    np.savez(array, x=np.ones(2))
    model, x = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 4, 4)
    for file, message in ((text, "it is no .npz file"), (array, "it has x, not `header`")):
        before = file.read_bytes()
        with pytest.raises(ValueError, match=f"{file.name} is no state of compute_erf: {message}"):
            compute_erf(model, x, "0", state=file)
        with pytest.raises(ValueError, match=f"{file.name} is no check of fields: it "):
            FieldCheck.load(file)
        assert file.read_bytes() == before


def test_the_state_of_another_grid_or_of_other_statistics_is_not_continued(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(2)).eval()
    model[1].running_mean += 0.1
    x, options = torch.randn(4, 1, 4, 4), dict(layers="3", layout="BCN", batch_size=2, state=tmp_path / "erf.state")
    for change in (dict(grid=(2, 8)), {}):
        with pytest.raises(KeyboardInterrupt):
            compute_erf(model, x, grid=(4, 4), progress=stop, **options)
        model[1].running_mean += 1 - len(change)
        found = compute_erf(model, x, **{"grid": (4, 4)} | change, **options)
        fresh = compute_erf(model, x, **{"grid": (4, 4)} | change, **options | dict(state=None))
        assert np.array_equal(found.spatial["3"], fresh.spatial["3"])


@pytest.mark.parametrize("aggregate", ["mean", "median"])
@pytest.mark.slow
def test_processes_share_the_inputs(aggregate):
    x, kept = torch.randn(7, 3, 32, 32), []
    model = calibrate(SDTV3(NANO, "srb"), x)
    options = dict(layers="stages.1", batch_size=2, aggregate=aggregate)
    whole = compute_erf(model, x, **options)
    shares = [x[:3], x[3:], []]  # more processes than inputs, too
    for share in shares:
        with pytest.raises(KeyboardInterrupt):  # the first pass only keeps what each process would send
            compute_erf(model, share, gather=lambda own: kept.append(own) or stop(), **options)
    for share in shares:
        result = compute_erf(model, share, gather=lambda own: list(kept), **options)
        assert result.info["num_inputs"] == 7
        assert np.allclose(result.spatial["stages.1"], whole.spatial["stages.1"], rtol=1e-6)
        assert np.allclose(result.spatial_error["stages.1"], whole.spatial_error["stages.1"], rtol=1e-4)
        assert result.numbers("stages.1")["r50"].error > 0


def stop():
    raise KeyboardInterrupt


def test_an_error_of_one_process_is_an_error_of_all():
    with pytest.raises(ValueError, match="of another process"):
        compute_erf(SDTV3(NANO), torch.randn(2, 3, 32, 32), gather=lambda own: [own, ValueError("of another process")])
    sent = []
    with pytest.raises(ValueError, match="inputs differ in shape"):  # the own error is sent before it is raised
        inputs = [torch.randn(1, 3, 32, 32), torch.randn(1, 3, 48, 48)]
        model = calibrate(SDTV3(NANO), torch.randn(2, 3, 32, 32))
        compute_erf(model, inputs, gather=lambda own: sent.append(own) or sent)
    assert isinstance(sent[0], ValueError)

    def broken():
        yield torch.randn(1, 3, 32, 32)
        raise OSError("an unreadable file")

    sent.clear()  # inputs for statistics are exchanged first
    with pytest.raises(RuntimeError, match="OSError: an unreadable file"):
        compute_erf(SDTV3(NANO), broken(), gather=lambda own: sent.append(own) or sent)
    assert len(sent) == 1 and isinstance(sent[0], RuntimeError)


def test_statistics_are_of_the_inputs_of_all_processes():
    x, sent = torch.randn(6, 3, 32, 32), []
    model = SDTV3(NANO, "srb")
    whole = compute_erf(model, x, "stages.1", batch_size=2)
    both = (x[:2], x[2:])
    gathers = iter([lambda own: [Reading().batch(part) for part in both], lambda own: sent.append(own) or sent])
    compute_erf(model, both[0], "stages.1", batch_size=2, gather=lambda own: next(gathers)(own))
    gathers = iter([lambda own: [Reading().batch(part) for part in both], lambda own: sent.append(own) or sent])
    result = compute_erf(model, both[1], "stages.1", batch_size=2, gather=lambda own: next(gathers)(own))
    assert result.info["calibrated"] == whole.info["calibrated"] and result.info["calibrated"]["inputs"] == 6
    assert np.array_equal(result.spatial["stages.1"], whole.spatial["stages.1"])
