"""What steps consumed: tokens and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Final

from flujo_async.errors import InvalidArgument

_LARGEST_COST: Final = 10**15  # with which sums are exact to a ten-millionth
_MONEY: Final = Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[])  # sums do not depend on who reads a log


@dataclass(frozen=True, slots=True)
class Usage:
    """What a step, a run, or a run with its children has consumed; two of them can be added.

    Attributes:
        tokens: how many tokens, of all kinds.
        cost: how much money, in whatever currency it is reported; exact, as ``Decimal`` is.
        token_counts: the tokens by kind, such as ``{"input": 900, "output": 80}``, where kinds were reported.
    """

    tokens: int = 0
    cost: Decimal = Decimal(0)
    token_counts: Mapping[str, int] = field(default_factory=dict[str, int])

    def __add__(self, other: Usage) -> Usage:
        counts = {**self.token_counts}
        for kind, count in other.token_counts.items():
            counts[kind] = counts.get(kind, 0) + count
        return Usage(self.tokens + other.tokens, _MONEY.add(self.cost, other.cost), counts)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.cost or self.token_counts)


NO_USAGE: Final = Usage()
_MOST_TOKENS: Final = 2**53  # in one report; sums of such fit into what JSON can say


def grown(earlier: Usage, later: Usage) -> Usage:
    """Return by how much a sum has grown; all of it if it is smaller, and so was begun anew."""
    if later.tokens < earlier.tokens or later.cost < earlier.cost:
        return later
    more = {kind: count - earlier.token_counts.get(kind, 0) for kind, count in later.token_counts.items()}
    counts = {kind: count for kind, count in more.items() if count > 0}
    return Usage(later.tokens - earlier.tokens, _MONEY.subtract(later.cost, earlier.cost), counts)


def reported_usage(tokens: Any, cost: Any) -> Usage:
    """Return what a step reports, as ``report_usage`` takes it.

    Raises:
        InvalidArgument: a number of tokens is not a whole number, the cost is no finite number, or one is negative.
    """
    counts: dict[Any, Any] = dict(tokens) if isinstance(tokens, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType] -- checked below
    for kind in counts:
        if not isinstance(kind, str):
            raise InvalidArgument(f"report_usage(): a kind of tokens is a text, not {kind!r}")
    numbers = [*counts.values()] if isinstance(tokens, Mapping) else [tokens]
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MOST_TOKENS:
            raise InvalidArgument(f"report_usage(): tokens are counted in whole numbers from 0, not {number!r}")
    return Usage(sum(numbers), _money(cost), counts)


def _money(cost: Any) -> Decimal:
    if isinstance(cost, bool) or not isinstance(cost, int | float | str | Decimal):
        raise InvalidArgument(f"report_usage(): cost is a number, not {cost!r}")
    try:
        amount = Decimal(str(cost))  # of a float the shortest text that means it: 0.1 is a tenth
    except InvalidOperation as error:
        raise InvalidArgument(f"report_usage(): cost is a number, not {cost!r}") from error
    if not amount.is_finite() or not 0 <= amount < _LARGEST_COST:
        raise InvalidArgument(f"report_usage(): cost is from 0 to {_LARGEST_COST:,}, not {cost!r}")
    return amount
