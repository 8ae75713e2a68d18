"""Values of ``--cfg-options``: mmengine's spelling, and Python's for what has a dict in it."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

from ..openmmlab.configs.literals import read_literal

# A dict at the beginning of a value or of an element of a list, as in `dict(max_norm=35)`, or a list of strings in quotes.
# mmengine removes spaces from all values, so that paths and names with spaces must not reach it.
_PYTHON = re.compile(r"""(^|[\[(,])\s*(dict\(|\{)|^\s*[\[(].*['"].*,""", re.DOTALL)
_LIST = re.compile(r"^\s*[\[(]|,")
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))


class Settings(DictAction):
    """Collects the ``KEY=VALUE`` pairs of an option in a dict.

    Values are read as mmengine's tools read them (``1``, ``true``, ``None``, ``a,b``, ``[(1,2),(3,4)]``, everything else is
    a string), but for lists of strings in quotes and for what has a dict in it, which are Python: ``('traffic light',
    'dog')``, ``dict(max_norm=35)``, ``[dict(type='RandomFlip')]``.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to what the option has collected so far.

        Raises:
            argparse.ArgumentError: a pair cannot be read; argparse shows the message.
        """
        for text in values or ():
            key, equals, value = text.partition("=")
            if not equals or any(value.count(opening) != value.count(closing) for opening, closing in _BRACKETS):
                raise argparse.ArgumentError(self, f"{text!r} is no KEY=VALUE, or its brackets do not match")
            try:
                if _PYTHON.search(value):
                    self._add(namespace, key, read_literal(value))
                elif " " in value.strip() and not _LIST.search(value):
                    self._add(namespace, key, value.strip(" '\""))
                else:
                    super().__call__(parser, namespace, [text], option_string)
            except (ValueError, SyntaxError, RecursionError) as error:  # mmengine recurses without end on `f(1,2)`
                raise argparse.ArgumentError(
                    self,
                    f"{text!r} cannot be read; write all strings inside brackets in quotes, and what has a dict in it as "
                    f"in Python: KEY=\"[dict(type='RandomFlip', prob=0.5)]\"",
                ) from error

    def _add(self, namespace: argparse.Namespace, key: str, value: Any) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), key: value})
