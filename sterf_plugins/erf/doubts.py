"""How far the fields of a result can be trusted: what it warns of, and what its pictures have to say beside them.

A doubt is a function of a result and a layer: why the layer's field is not that of the network at the target, as a line
that warns of it, or ``None`` if there is no such reason.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..firing import listed
from .numbers.metrics import mass_at
from .protocols import note, protocol_of
from .summary import counted

_UNSETTLED = 0.5  # share of a signed field's squares that is noise, from which on its numbers are those of the noise
_KINDS = ("spatial", "temporal", "frames")
_BESIDE = 0.01  # density of a field's mass around its target, below which it is called elsewhere; a flat field has 1


def _rounding(result: Any, layer: str) -> str | None:
    """A field is the rounding noise of the gradient of a constant sum of channels."""
    if layer not in result.info.get("constant_sums", []) or _channels(result, layer) != "sum":
        return None
    return (
        "the sum of its channels is constant, and this is the rounding noise of its gradient; use channels='auto', "
        "'per-channel' or a number of random projections."
    )


def _elsewhere(result: Any, layer: str) -> str | None:
    """Hardly any of a field lies around its target."""
    size, at = result.target(layer)
    field = result.spatial.get(layer)
    if size is None or at is None or field is None or mass_at(np.abs(field), size, at) >= _BESIDE:
        return None
    return (
        "hardly any of its field lies around the target, as where rows and columns of an output are exchanged; if they are, "
        "pass a function as `layout` that makes (B, C, h, w) of it."
    )


def _unsettled(result: Any, layer: str) -> str | None:
    """Half of a signed field or more, of its sum of squares, is the noise that the mean over so few inputs leaves.

    Noise adds to all absolute values, most where the field is about zero, and no correction finds out how much. Fields of
    absolute or positive gradients are those of the noise, too.
    """
    protocol = protocol_of(result.info, layer)
    if (protocol.reduce if protocol else result.info.get("reduce")) != "signed":
        return None
    fields = [(getattr(result, k).get(layer), getattr(result, f"{k}_error").get(layer)) for k in _KINDS]
    if not any(
        np.square(error).sum() > _UNSETTLED * np.square(field).sum()
        for field, error in fields
        if field is not None and error is not None
    ):
        return None
    return (
        "gradients of either sign cancel, and half of this signed field or more is what so few inputs leave of their noise; "
        "so are its numbers. Give more inputs, or reduce='abs'."
    )


def _surrogate(result: Any, layer: str) -> str | None:
    """Spike layers on a field's way are silent or saturated, which pass nothing on from their input."""
    facts = spikes_before(result, layer)
    states = {state: [name for name, fact in facts.items() if fact[state]] for state in ("silent", "saturated")}
    if not any(states.values()):
        return None
    told = " and ".join(f"{len(names)} {state} ({listed(names)})" for state, names in states.items() if names)
    return (
        f"of {len(facts)} spike layers on its way, {told} for these inputs; what leads through them is the field of the "
        f"surrogate gradient, not of the network."
    )


_DOUBTS: dict[Callable[[Any, str], str | None], str] = {  # doubt -> what pictures of fields marked by † say of it
    _rounding: "the sum of the channels is constant, and this is rounding noise",
    _elsewhere: "hardly any of the field lies around the target",
    _unsettled: "half of the signed field or more is noise of so few inputs",
    _surrogate: "leads through silent or saturated spike layers, where it is the surrogate's field",
}


def doubtful(result: Any, layer: str) -> bool:
    """Whether there is a doubt about a layer's field."""
    return any(doubt(result, layer) for doubt in _DOUBTS)


def warnings(result: Any) -> list[str]:
    """See ``ERFResult.warnings``."""
    lines = [f"{layer}: no field. {reason}" for layer, reason in result.failed.items()]
    if result.info.get("cut"):
        lines.append(
            f"{listed(result.info['cut'])}: run with `no_grad` inside the model; what leads through them is missing in the "
            f"fields of all later layers."
        )
    if result.info.get("autocast"):
        lines.append(
            f"{listed(result.info['autocast'])}: run with `autocast` inside the model; the fields of all later layers are "
            f"rounded to 16 bits on the way. Switch it off in the model for exact ones."
        )
    told = ((layer, doubt(result, layer)) for doubt in _DOUBTS for layer in result.layers)
    return lines + [f"{layer}: {reason}" for layer, reason in told if reason]


def notes(result: Any) -> list[str]:
    """See ``ERFResult.notes``."""
    info, lines = result.info, []
    if info.get("weights") == "random":
        lines.append("random weights")
    calibrated = info.get("calibrated")
    if calibrated:
        initial = calibrated.get("initial")  # norms that see one value of each channel
        but = f", but for {initial} that see a single value" if initial else ""
        lines.append(f"BatchNorm statistics calibrated on {counted(calibrated['inputs'], 'input')}{but}")
    if info.get("cut"):
        lines.append(f"without what leads through {listed(info['cut'])}, run with no_grad inside the model")
    if info.get("autocast"):
        lines.append(f"rounded to 16 bits in {listed(info['autocast'])}, run with autocast inside the model")
    if info.get("drawn"):
        lines.append("the model draws random numbers, which are other ones in another run")
    if info.get("closed_scales"):
        lines.append(f"branches with scales next to zero hardly count: {listed(info['closed_scales'])}")
    protocol = note(info)
    if protocol is not None:
        lines.append(protocol)
    constant = info.get("constant_sums", [])
    projected = [name for name in result.layers if name in constant and _channels(result, name) == "auto"]
    if projected:
        lines.append(f"random projections of the channels, whose sum is constant, in {listed(projected)}")
    unclear = [name for name in result.layers if name in info.get("unclear", [])]
    if unclear:
        lines.append(f"no change of the input shows which place is whose, in {listed(unclear)}")
    for doubt, said in _DOUBTS.items():
        layers = [layer for layer in result.layers if doubt(result, layer)]
        if layers:
            lines.append(f"† {said}, in {listed(layers)}")
    return lines


def spikes_before(result: Any, layer: str) -> dict[str, dict[str, Any]]:
    """Facts of the spike layers that ran before a layer, by name."""
    facts = result.info.get("spike_layers", {})
    return {name: facts[name] for name in result.info.get("spikes_before", {}).get(layer, [])}


def _channels(result: Any, layer: str) -> str | int | None:
    """How the channels of a layer's output entered its field."""
    protocol = protocol_of(result.info, layer)
    return protocol.channels if protocol else result.info.get("channels")
