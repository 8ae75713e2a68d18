"""Python literals with ``dict(...)`` in them, as configs are written; nothing is run."""

import ast
from typing import Any


def read_literal(text: str) -> Any:
    """The value of a Python literal, in which ``dict(a=1)`` may stand for ``{"a": 1}``.

    Raises:
        ValueError, SyntaxError: the text is something else.
    """
    return ast.literal_eval(_DictCalls().visit(ast.parse(text.strip(), mode="eval")))


def read_assignments(text: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The values that a config's text gives to some of its variables; those that it has not are missing.

    Raises:
        ValueError, SyntaxError: a value is no literal.
    """
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names:
            found[node.targets[0].id] = read_literal(ast.unparse(node.value))
    return found


class _DictCalls(ast.NodeTransformer):
    """Turns ``dict(a=1)`` into ``{"a": 1}``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            names: list[ast.expr | None] = [ast.Constant(k.arg) if k.arg else None for k in node.keywords]
            return ast.Dict(names, [k.value for k in node.keywords])
        return node
