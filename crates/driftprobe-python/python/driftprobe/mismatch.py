"""Log-probabilities by decode against those by prefill, typed: logprobs.json as `driftprobe logprobs` makes it.

Names and meanings are those of docs/logprobs.md. Δ is ln p by decode less ln p by prefill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .entries import made, many, number, of, one


@dataclass(frozen=True)
class Metrics:
    """Over the tokens that were compared."""

    tokens: int
    equal: int
    mean_abs_delta: float = of(number)
    max_abs_delta: float = of(number)
    k1: float = of(number)
    k2: float = of(number)
    k3: float = of(number)
    ratio_min: float = of(number)
    ratio_p50: float = of(number)
    ratio_p99: float = of(number)
    ratio_max: float = of(number)
    ratio_outside: float = of(number)
    chi2: float = of(number)
    perplexity_prefill: float = of(number)
    perplexity_decode: float = of(number)
    perplexity_ratio: float = of(number)
    correlation: float = of(number)


@dataclass(frozen=True)
class Limit:
    """A limit that was given."""

    measure: str
    verdict: str
    limit: float = of(number)
    value: float = of(number)


@dataclass(frozen=True)
class Finding:
    """Why not all was compared."""

    code: str
    count: int
    sentence: str
    hint: str
    examples: list[str]


@dataclass(frozen=True)
class Sequence:
    """One sequence."""

    sequence: str
    worst_index: int
    sum_delta: float = of(number)
    metrics: Metrics = of(one(Metrics))


@dataclass(frozen=True)
class Trace:
    """What a trace of a token says."""

    run: str
    verdict: str
    sub_verdict: str | None
    says: str
    first: str | None
    layer: int | None
    point: str | None
    phase: str | None
    kind: str | None
    hypotheses: list[str]
    causes: list[str]
    reproduced: bool | None
    run_delta: float | None = of(number)


@dataclass(frozen=True)
class Token:
    """One token."""

    sequence: str
    index: int
    token_id: int
    prefill_logprob: float = of(number)
    decode_logprob: float = of(number)
    delta: float = of(number)
    ratio: float = of(number)
    trace: Trace | None = of(one(Trace))


@dataclass(frozen=True)
class Mismatch:
    """What decode's and prefill's log-probabilities come to. `data` is all of logprobs.json; `markdown` and `tsv` are the other
    two files, the latter with every token."""

    outcome: str
    """`MEASURED` (no limit was given: nothing has passed), `PASS`, `FAIL` or `INCONCLUSIVE`."""
    exit_code: int
    """0, 1 or 3, as the command line has it."""
    why: list[str]
    prefill: str
    """The file of prefill's scores."""
    decode: str
    """The file of decode's."""
    metrics: Metrics = of(one(Metrics))
    limits: list[Limit] = of(many(Limit))
    findings: list[Finding] = of(many(Finding))
    sequences: list[Sequence] = of(many(Sequence))
    worst: list[Token] = of(many(Token))
    """The tokens with the largest abs(Δ), the worst first."""
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    markdown: str = field(default="", repr=False)
    tsv: str = field(default="", repr=False)
    folder: Path = field(default=Path(), repr=False)
    """Where the files lie, and the report in `report/`."""

    @classmethod
    def parse(cls, data: dict[str, Any], texts: tuple[str, str, str], folder: Path) -> Mismatch:
        """From logprobs.json as data, the three texts, and the folder."""
        return made(cls, {**data, "data": data, "markdown": texts[1], "tsv": texts[2], "folder": folder})

    def __str__(self) -> str:
        return f"{self.outcome}: {self.metrics.tokens} tokens, mean |Δ| {self.metrics.mean_abs_delta:.3g}, k3 {self.metrics.k3:.3g}"
