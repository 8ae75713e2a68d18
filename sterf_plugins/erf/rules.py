"""Rules such as ``area_90>5%``: by how much a number may change, for tests and continuous integration."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .compare import Comparison, Difference, fits

GRAMMAR = (
    "[LAYER:]NUMBER>AMOUNT, where LAYER and NUMBER may be glob patterns and AMOUNT is a share of the first value (5%), "
    "a number of standard errors of the change (3se), or in the number's own unit (0.02); >+5% for growth, >-5% for loss"
)
_RULE = re.compile(
    r"(?:(?P<layer>[^>]+):)?(?P<name>[^:>\s]+)\s*>\s*"
    r"(?P<sign>[+-]?)(?P<amount>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?P<unit>%|se|)"
)


@dataclass(frozen=True)
class Rule:
    """By how much some numbers may change.

    Attributes:
        layer, name: glob patterns.
        amount: the largest change that is allowed, in ``unit``.
        unit: "%" of the first value, "se" for standard errors of the change, "" for the number's own unit.
        sign: "+" if growth alone counts, "-" if loss alone does, "" for both.
    """

    layer: str
    name: str
    amount: float
    unit: str = ""
    sign: str = ""

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read a rule.

        Raises:
            ValueError: ``text`` is no rule; the message says what one looks like.
        """
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no rule; give {GRAMMAR}.")
        return cls(match["layer"] or "*", match["name"], float(match["amount"]), match["unit"], match["sign"])

    def __str__(self) -> str:
        layer = "" if self.layer == "*" else f"{self.layer}:"
        return f"{layer}{self.name}>{self.sign}{self.amount:g}{self.unit}"

    def broken_by(self, comparison: Comparison) -> list[Difference]:
        """The differences that are larger than allowed; one that became or ceased to be finite always is.

        Raises:
            ValueError: the rule is about none of the numbers, or asks for standard errors that are unknown.
        """
        found = comparison.matching(self.layer, self.name)
        if not found and not self.lost(comparison):
            raise ValueError(f"the rule {self} is about none of {comparison.known()}.")
        return [d for d in found if self._amount(d) > self.amount]

    def lost(self, comparison: Comparison) -> list[str]:
        """The layers that the rule is about of which the second result has no field any more."""
        return [layer for layer in comparison.lost if fits(layer, self.layer)]

    def _amount(self, d: Difference) -> float:
        """The change that counts, in the rule's unit."""
        value = d.change.value
        if not math.isfinite(value):
            return math.inf
        if self.unit == "%":
            value = 100 * d.relative
        if self.unit == "se" and value:
            if math.isnan(d.change.error):
                raise ValueError(
                    f"{d.layer}: {d.name} has no standard error; compute more than one input, or give a share."
                )
            value = value / d.change.error if d.change.error else math.copysign(math.inf, value)
        return {"": abs(value), "+": value, "-": -value}[self.sign]


def failures(comparison: Comparison, rules: Iterable[Rule]) -> list[str]:
    """One line for each number that breaks one of some rules, with both values, and for each layer that is lost."""
    rules = list(rules)
    lost = dict.fromkeys(layer for rule in rules for layer in rule.lost(comparison))
    return [f"{layer}: has no field any more. {comparison.lost[layer]}" for layer in lost] + [
        f"{d.layer}: {d.name} was {d.a} and is {d.b}, changed by {d.change} ({100 * d.relative:+.3g} %); allowed: {rule}"
        for rule in rules
        for d in rule.broken_by(comparison)
    ]
