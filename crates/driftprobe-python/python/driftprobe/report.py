"""What can be said of a run, typed: a report as `driftprobe analyze` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from . import html
from .entries import (
    Cause,
    ContractFinding,
    Coverage,
    FirstFailure,
    Pairs,
    Reason,
    Repeat,
    Row,
    Suspect,
    made,
    many,
    of,
    one,
)
from .errors import needed


@dataclass(frozen=True)
class Report:
    """A report. `data` is all of drift.json; `markdown`, `tsv` and `page` (drift.html) are the other files."""

    verdict: str
    """`PASS`, `FAIL` or `INCONCLUSIVE`."""
    sub_verdict: str | None
    """`BIT_IDENTICAL` or `STRUCTURAL_DRIFT` for a PASS."""
    exit_code: int
    """0, 1 or 3, as the command line has it."""
    root_cause: str | None
    """A failure code, where the evidence carries one."""
    root_cause_why: str
    recommendations: list[str]
    limits: list[str]
    """What cannot be claimed."""
    rests_on: list[str]
    not_judged: list[str]
    """Fields that claim nothing of this run, since no model was at hand."""
    pairs: Pairs = of(one(Pairs))
    coverage: Coverage = of(one(Coverage))
    first_failure: FirstFailure | None = of(one(FirstFailure))
    first_difference: FirstFailure | None = of(one(FirstFailure))
    cause: Cause | None = of(one(Cause))
    causes: list[Cause] = of(many(Cause))
    contract_findings: list[ContractFinding] = of(many(ContractFinding))
    suspects: list[Suspect] = of(many(Suspect))
    reasons: list[Reason] = of(many(Reason))
    notes: list[Reason] = of(many(Reason))
    repeats: list[Repeat] = of(many(Repeat))
    rows: list[Row] = of(many(Row))
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    markdown: str = field(default="", repr=False)
    tsv: str = field(default="", repr=False)
    json: str = field(default="", repr=False)
    page: str = field(default="", repr=False)

    @classmethod
    def parse(cls, data: dict[str, Any], texts: tuple[str, str, str, str]) -> Report:
        """A report from drift.json as data, and drift.json, drift.md, drift.tsv and drift.html as texts."""
        json, markdown, tsv, page = texts
        return made(cls, {**data, "data": data, "json": json, "markdown": markdown, "tsv": tsv, "page": page})

    @property
    def passed(self) -> bool:
        """Whether the evidence carries a PASS."""
        return self.verdict == "PASS"

    def to_pandas(self) -> Any:
        """One line a pair of rows, as a `pandas.DataFrame`: its place, its verdict, and how far the phases are apart.

        Raises:
            Error: if pandas is not installed.
        """
        pandas = needed("pandas", "Report.to_pandas")
        columns = [*html.KEYS, *html.NUMBERS]
        lines = [[getattr(row, key) for key in html.KEYS] + _numbers(row) for row in self.rows]
        return pandas.DataFrame(lines, columns=columns)

    def write(self, folder: str | PathLike[str]) -> Path:
        """Writes drift.html, drift.md, drift.tsv and drift.json into a folder, which is made if it is not there."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        texts = {"html": self.page, "md": self.markdown, "tsv": self.tsv, "json": self.json}
        for ending, text in texts.items():
            (path / f"drift.{ending}").write_bytes(text.encode())
        return path

    def __str__(self) -> str:
        sub = f" ({self.sub_verdict})" if self.sub_verdict else ""
        cause = f": {self.cause.hypothesis}" if self.cause else ""
        return f"{self.verdict}{sub}{cause}"

    def _repr_html_(self) -> str:
        return html.summary(self)


def _numbers(row: Row) -> list[Any]:
    return [getattr(row.numbers, name) if row.numbers else None for name in html.NUMBERS]
