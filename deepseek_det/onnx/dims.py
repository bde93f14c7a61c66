"""Sizes of arrays whose inputs have free dimensions: integers, or polynomials in symbols.

A file may call a dimension "batch" or "height". What its nodes compute of them (shapes, halves,
products) is then a `Dim`: a sum of products of symbols with whole coefficients, where a division
that does not come out is a symbol of its own. Constants are plain `int`, so that a graph without
free dimensions never sees this class. Two sizes are equal where their normal forms are.

>>> h = Dim.symbol("h")
>>> (h * 6 + 3) // 3, (h + 1) // 2 * 2, h - h
(2·h + 1, 2·[(h + 1)/2], 0)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Union

Size = Union[int, "Dim"]
_Key = tuple[str, ...]
_MAX_TERMS = 64


class Undecided(ValueError):
    """A question about free dimensions that has no one answer, such as whether h < 7."""


class Dim:
    """A size that is not a constant; immutable. Arithmetic gives `int` where symbols cancel."""

    __slots__ = ("terms",)
    terms: dict[_Key, int]

    def __init__(self, terms: dict[_Key, int]) -> None:
        self.terms = terms

    @staticmethod
    def symbol(name: str) -> Dim:
        """A free dimension by its name."""
        return Dim({(name,): 1})

    def __add__(self, other: Size) -> Size:
        terms = dict(self.terms)
        for key, count in _terms(other).items():
            terms[key] = terms.get(key, 0) + count
        return _normal(terms)

    def __neg__(self) -> Size:
        return _normal({key: -count for key, count in self.terms.items()})

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: int) -> Size:
        return (-self) + other

    def __mul__(self, other: Size) -> Size:
        terms: dict[_Key, int] = {}
        for a, x in self.terms.items():
            for b, y in _terms(other).items():
                key = tuple(sorted(a + b))
                terms[key] = terms.get(key, 0) + x * y
        return _normal(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        exact = quotient(self, other)
        if exact is not None:
            return exact
        if isinstance(other, int) and other > 0:
            whole = _normal({key: count // other for key, count in self.terms.items()})
            rest = _normal({key: count % other for key, count in self.terms.items()})
            return whole + (0 if isinstance(rest, int) else _floor(rest, other))
        return Dim.symbol(f"[({self})/({other})]")

    def __rfloordiv__(self, other: int) -> Size:
        return 0 if other == 0 else Dim.symbol(f"[{other}/({self})]")

    def __mod__(self, other: Size) -> Size:
        return self - (self // other) * other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __lt__(self, other: Size) -> bool:
        return self._compare(other, lambda d: d < 0)

    def __le__(self, other: Size) -> bool:
        return self._compare(other, lambda d: d <= 0)

    def __gt__(self, other: Size) -> bool:
        return self._compare(other, lambda d: d > 0)

    def __ge__(self, other: Size) -> bool:
        return self._compare(other, lambda d: d >= 0)

    def _compare(self, other: Size, holds: Callable[[int], bool]) -> bool:
        difference = self - other
        if isinstance(difference, int):
            return holds(difference)
        # Dimensions are 1 or more: a sum of positive terms is between this and infinity.
        low = sum(difference.terms.values())
        grows = all(count > 0 for key, count in difference.terms.items() if key)
        if grows and holds(low) == holds(max(low, 0) + 1):
            return holds(low)
        raise Undecided(f"{self} is free: how it compares with {other} is not known")

    def __bool__(self) -> bool:
        return True  # dimensions are 1 or more

    def __index__(self) -> int:
        raise Undecided(f"{self} is a free dimension, a number is needed")

    __int__ = __index__
    __float__ = __index__

    def __repr__(self) -> str:
        parts = []
        for key, count in sorted(self.terms.items(), key=lambda t: (-len(t[0]), t[0])):
            factors = ([str(count)] if count != 1 or not key else []) + list(key)
            parts.append("·".join(factors))
        return " + ".join(parts).replace("+ -", "- ")


class _Quotient(str):
    """The symbol of a division that does not come out: its name tells it whole."""

    __slots__ = ("divisor", "inner")
    inner: Dim
    divisor: int


def _floor(value: Dim, divisor: int) -> Size:
    """floor(value / divisor), coefficients below it; [([p/a] + q)/b] is [(p + a·q)/(a·b)]."""
    for key, count in value.terms.items():
        if count == 1 and len(key) == 1 and isinstance(key[0], _Quotient):
            inner = key[0]
            rest = value - Dim({key: 1})
            return (inner.inner + rest * inner.divisor) // (inner.divisor * divisor)
    name = _Quotient(f"[({value})/{divisor}]")
    name.inner, name.divisor = value, divisor
    return Dim({(name,): 1})


def _terms(value: Size) -> dict[_Key, int]:
    return value.terms if isinstance(value, Dim) else {(): int(value)}


def _normal(terms: dict[_Key, int]) -> Size:
    kept = {key: count for key, count in terms.items() if count}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    if len(kept) > _MAX_TERMS:
        raise Undecided(f"a size of {len(kept)} terms of free dimensions")
    return Dim(kept)


def quotient(a: Size, b: Size) -> Size | None:
    """a / b where it comes out whole whatever the symbols are, else None."""
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b if a % b == 0 else None
        fits = all(count % b == 0 for count in a.terms.values())
        return _normal({key: count // b for key, count in a.terms.items()}) if fits else None
    if a == b:
        return 1
    if isinstance(a, int) or len(b.terms) > 1:
        return None
    ((wanted, divisor),) = b.terms.items()
    terms: dict[_Key, int] = {}
    for key, count in a.terms.items():
        rest = list(key)
        for symbol in wanted:
            if symbol not in rest:
                return None
            rest.remove(symbol)
        if count % divisor:
            return None
        terms[tuple(rest)] = count // divisor
    return _normal(terms)


def product(sizes: tuple[Size, ...] | list[Size]) -> Size:
    """The product of sizes; 1 for none."""
    return functools.reduce(lambda a, b: a * b, sizes, 1)


def unequal(a: Size, b: Size) -> bool:
    """Whether two sizes certainly differ: two free ones may turn out equal at the run."""
    return isinstance(a, int) and isinstance(b, int) and a != b
