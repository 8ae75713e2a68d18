"""Checkpoint files: read without running code, and published weights under the names of this package's networks."""

from .reading import read_checkpoint, state_dict_of
from .sdt_v3 import convert_state_dict, infer_architecture

__all__ = ["convert_state_dict", "infer_architecture", "read_checkpoint", "state_dict_of"]
