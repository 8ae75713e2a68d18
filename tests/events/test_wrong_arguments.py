"""Arguments of the event functions that cannot be right: the message names them and what is allowed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sterf_plugins import events as E
from sterf_plugins.erf import compute_erf
from sterf_plugins.stems import ConvStem, TemporalMemory
from sterf_plugins.tracking.results import evaluate
from sterf_plugins.tracking.sequences import find_sequences

EVENTS, SIZE = E.Events.of([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 0]), (4, 4)
VIDEO, LABELS = torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 2)
RECORDING = E.Recording(Path("a.h5"), SIZE, lambda: iter([EVENTS]))


def test_large_amounts_are_white():
    amounts = [[image.pixels.tolist() for image in E.gtp(RECORDING, [0, 1, 3], 1, n, n)] for n in (255, 10**30)]
    assert amounts[0] == amounts[1] and np.max(amounts) == 255


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda f=f, e=e: f(e, SIZE, [0, 3]), r"`events` is a \w+; it must be Events: Events.of\(t, x, y, p\)")
            for f in E.REPRESENTATIONS.values()
            for e in (None, [1, 2], 3)
        ),
        (lambda: E.equal_times(0, math.nan, 3), "`stop` is nan"),
        (lambda: E.equal_times(0.5, 10, 3), "`start` is 0.5"),
        (lambda: E.gtp("a.h5", [0, 3]), r"`recording` is a str; it must be a Recording: open_recording\(PATH\)"),
        (lambda: E.render(1, 2, (16, 16), motion=dict(translate=1)), "`motion` is .*translate.*; it must be a Motion"),
        (lambda: E.render(1, 2, (16, 16), shapes=3), "`shapes` is 3"),
        (lambda: E.render(1, 2, (16, 16), seed=1.5), "`seed` is 1.5"),
        (lambda: E.write_recording("a.h5", None, SIZE), "`events` is a NoneType; it must be Events"),
        (lambda: E.write_recording("a.aedat4", EVENTS, SIZE, [1]), r"`frames\[0\]` is a int; it must be Frame"),
        (lambda: E.write_recording("a.aedat4", EVENTS, SIZE, 3), "`frames` is 3"),
        (lambda: E.write_events("a.h5", VIDEO.numpy(), LABELS), "`events` is a ndarray; it must be a tensor"),
        (
            lambda: E.write_events("a.h5", VIDEO, LABELS[:, 0, 0]),
            r"`labels` \(2,\); they must be .* and \(T, shapes, 2\)",
        ),
        (lambda: ConvStem(3, 0), "`embed_dim` is 0"),
        (lambda: ConvStem(3, 8, stride=0), "`stride` is 0"),
        (lambda: TemporalMemory(3), "`module` is 3"),
        *(
            (call, rf"`{name}` is 3 \(int\); it must be a path")
            for name, call in {
                "root": lambda: E.EventFolder(3),
                "path": lambda: E.open_recording(3),
                "data_root": lambda: find_sequences(3, "fe108", "test", 1),
                "folder": lambda: evaluate(3, {}),
                "state": lambda: compute_erf(
                    torch.nn.Sequential(torch.nn.Flatten(2)), torch.rand(1, 3, 8, 8), ["0"], state=3
                ),
            }.items()
        ),
        (lambda: E.write_recording(3, EVENTS, SIZE), "`path` is 3"),
        (lambda: E.Events.of([0, 1, 2], [0] * 3, [0] * 3, [-1, 1, 0]), "event 2 has p=0 beside others with p=-1"),
    ],
)
def test_wrong_arguments(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        call()
    assert not list(tmp_path.iterdir())
