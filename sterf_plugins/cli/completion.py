"""The options of a tool for completion in the shell, read from its source text: to import it takes seconds at each Tab."""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LITERALS = ("nargs", "choices", "action", "help")  # what completion needs to know of an option, where it is written out


def add_options(parser: argparse.ArgumentParser, path: Path) -> None:
    """Add the options of a tool to a parser that completes, and does not parse.

    Args:
        parser: gets the options; types and defaults are left out.
        path: file of the tool.
    """
    shared = {f.name: f for file in Path(__file__).parent.rglob("*.py") for f in _functions(file)}
    parser.add_argument("-h", "--help", action="store_true", help="show the options")
    for call in _calls(ast.parse(path.read_text()), shared):
        keywords = {word.arg: word.value for word in call.keywords if word.arg in LITERALS}
        literals: dict[str, Any] = {
            name: ast.literal_eval(value) for name, value in keywords.items() if _is_literal(value)
        }
        parser.add_argument(*(ast.literal_eval(name) for name in call.args), **literals)


def _functions(path: Path) -> Iterator[ast.FunctionDef]:
    """The functions of a file that add options which several tools have."""
    tree = ast.parse(path.read_text())
    return (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("add_"))


def _calls(tree: ast.AST, shared: dict[str, ast.FunctionDef]) -> Iterator[ast.Call]:
    """The calls of ``add_argument`` in a tool, and in the shared functions that it calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name == "add_argument":
                yield node
            elif name in shared:
                yield from _calls(shared[name], shared)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True
