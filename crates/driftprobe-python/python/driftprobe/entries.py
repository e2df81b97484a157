"""The entries of drift.json as dataclasses: names, units and meanings are those of docs/reports.md.

None means "not known" or "not given". Fields that this version does not name stay in `Report.data`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Callable, TypeVar

T = TypeVar("T")


def number(value: Any) -> float | None:
    """A number; JSON has no NaN and no infinities, so these are strings there."""
    return None if value is None else float(value)


def one(kind: type[T]) -> Callable[[Any], T | None]:
    """An entry, or none."""
    return lambda value: None if value is None else made(kind, value)


def many(kind: type[T]) -> Callable[[Any], list[T]]:
    """A list of entries."""
    return lambda value: [made(kind, each) for each in value or []]


def made(kind: type[T], data: dict[str, Any]) -> T:
    """An entry from its JSON; unknown fields are left out."""
    values: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        convert = each.metadata.get("as", lambda value: value)
        values[each.name] = convert(data.get(each.name))
    return kind(**values)


def of(convert: Callable[[Any], Any]) -> Any:
    """A field that is converted."""
    return field(metadata={"as": convert})


@dataclass(frozen=True)
class Reason:
    """Why the verdict is no PASS, or what was noticed."""

    code: str
    count: int
    sentence: str
    examples: list[str]
    hint: str


@dataclass(frozen=True)
class FirstFailure:
    """Where the phases first part. `layer` is −1 where the point has none."""

    prompt_id: str
    pos_id: int | None
    layer: int
    point: str
    phase: str | None
    code: str
    parting: str
    row: int | None
    last_equal_row: int | None


@dataclass(frozen=True)
class Candidate:
    """A bug that was tried on the first fault; noise is in units of what rounding must be."""

    hypothesis: str
    parameters: dict[str, str]
    accepted: bool
    noise_rms_after: float | None = of(number)


@dataclass(frozen=True)
class Cause:
    """The bug that explains the first fault of a phase; `UNEXPLAINED` where none does."""

    hypothesis: str
    parameters: dict[str, str]
    phase: str
    prompt_id: str
    logical_tok_idx: int
    layer: int
    layers: list[int]
    point: str
    systematic: bool
    evidence: str
    noise_rms_before: float | None = of(number)
    noise_rms_after: float | None = of(number)
    candidates: list[Candidate] = of(many(Candidate))


@dataclass(frozen=True)
class ContractFinding:
    """An arithmetic that the contract does not declare, is legitimate, and explains a stage's rows."""

    phase: str
    point: str
    layers: list[int]
    rows: int
    id: str
    says: str
    noise_rms_declared: float | None = of(number)
    noise_rms: float | None = of(number)


@dataclass(frozen=True)
class Pairs:
    """Pairs by verdict."""

    total: int
    identical: int
    structural: int
    inherited: int
    contract: int
    fault: int
    missing: int
    non_finite: int
    undecided: int
    differing: int


@dataclass(frozen=True)
class Coverage:
    """What was promised, found and paired."""

    expected: int | None
    found: int
    missing: int
    paired: int
    unpaired: int
    unexpected: int


@dataclass(frozen=True)
class Repeat:
    """One phase against one of its repeats."""

    repeat: int
    phase: str
    paired: int
    equal: int
    differing: int


@dataclass(frozen=True)
class Suspect:
    """One of attention's usual suspects in one phase: `explains`, `excluded`, `partly` or `open`."""

    suspect: str
    phase: str
    outcome: str
    says: str


@dataclass(frozen=True)
class Numbers:
    """How far two rows are apart: decode's against prefill's."""

    scope: str
    compared: int
    differing: int
    max_ulp: int | None
    max_abs: float | None = of(number)
    rel_l2: float | None = of(number)
    cosine: float | None = of(number)
    nmse: float | None = of(number)


@dataclass(frozen=True)
class Row:
    """One pair of rows."""

    prompt_id: str
    pos_id: int | None
    logical_tok_idx: int | None
    token_id: int | None
    layer: int
    point: str
    verdict: str
    code: str | None
    phase: str | None
    bits: str
    numbers: Numbers | None = of(one(Numbers))
