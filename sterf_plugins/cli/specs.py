"""How a model is named on the command line: ``[LABEL=]NAME[(option=value, ...)]``."""

import ast
import re
from collections.abc import Sequence
from typing import Any

CONFIG_PREFIXES = ("mmdet::", "mmseg::", "sterf_plugins::")
CHECKPOINTS = (".pth", ".pt", ".pth.tar", ".ckpt", ".safetensors")  # how names of checkpoints end
_CALL = re.compile(r"^(?P<name>[^()]+?)(?:\((?P<options>.*)\))?$", re.DOTALL)
_LABEL = re.compile(r"^(?P<label>[^=()]+)=(?P<rest>.+)$", re.DOTALL)


def parse_spec(spec: str) -> tuple[str, str, dict[str, Any]]:
    """Label, name and options of ``[LABEL=]NAME[(option=value, ...)]``; values are Python literals.

    Raises:
        ValueError: ``spec`` is not of this form.
    """
    label, rest = spec, spec.strip()
    if match := _LABEL.match(rest):
        label, rest = match["label"].strip(), match["rest"].strip()
    match = _CALL.match(rest)
    try:
        if match is None:
            raise SyntaxError
        call = ast.parse(f"f({match['options'] or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(k.arg is None for k in call.keywords):
            raise SyntaxError
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"model {spec!r} cannot be read; give NAME, NAME(option=value, ...) with literal values, or LABEL=NAME(...)."
        ) from error
    return label, match["name"].strip(), options


def slug_of(label: str) -> str:
    """The name of files with the results of a model that has this label, without suffix."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "model"


def is_config(name: str) -> bool:
    """Whether a name is a config: ``package::path``, or a path that ends in .py."""
    return name.startswith(CONFIG_PREFIXES) or name.endswith(".py") or "::" in name


def is_timm(spec: str) -> bool:
    """Whether a specification names a timm model."""
    name = parse_spec(spec)[1]
    return ":" not in name and not is_config(name)


def check_pretrained(specs: Sequence[str]) -> None:
    """Raise ``ValueError`` if ``--pretrained`` would load no weights, since none of the models is timm's."""
    if not any(map(is_timm, specs)):
        raise ValueError(
            f"--pretrained is for timm's models, and {specs[0]} is none: give its weights as CHECKPOINT, or by an option of its "
            f"own, as in 'torchvision.models:resnet18(weights=\"DEFAULT\")'."
        )
