"""The argument ``bank`` of stems: a bank, a dict of its arguments, or ``None`` for the one that fits the window."""

import inspect
from collections.abc import Mapping, Sequence

from .bank import RFBank


def as_bank(bank: RFBank | Mapping | None) -> RFBank | None:
    """Build a bank from a mapping of its arguments, as configs have; return a bank or ``None`` unchanged.

    Raises:
        TypeError: ``bank`` is something else, or the mapping has an argument that ``RFBank`` does not take.
    """
    if isinstance(bank, Mapping):
        known = list(inspect.signature(RFBank).parameters)
        for name in bank:
            if name not in known:
                raise TypeError(f"`bank` has {name!r}, which RFBank does not take; allowed: {', '.join(known)}.")
        return RFBank(**bank)
    if bank is not None and not isinstance(bank, RFBank):
        raise TypeError(
            f"`bank` is {bank!r} ({type(bank).__name__}); it must be an RFBank, a dict of its arguments such as "
            f"{{'orders': 2}}, or None for the bank that fits the window."
        )
    return bank


def bank_or_default(bank: RFBank | Mapping | None, kernel_size: int, learn: Sequence[str], init: str) -> RFBank:
    """The bank that is given, or ``RFBank.for_kernel_size(kernel_size, learn=learn)``.

    Raises:
        TypeError: see ``as_bank``.
        ValueError: ``learn`` would have no effect: there is another bank, or ``init`` leaves an ordinary weight.
    """
    bank = as_bank(bank)
    if learn and bank is not None:
        raise ValueError(
            f"`learn` is {learn!r}, which is for the default bank; give `bank` its own, as RFBank(learn=...)."
        )
    if learn and init != "rf":
        raise ValueError(f"`learn` is {learn!r}, but with init={init!r} no field is left to be learned; use init='rf'.")
    return RFBank.for_kernel_size(kernel_size, learn=learn) if bank is None else bank
