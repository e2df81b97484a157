"""A report in a notebook. All text of a trace is data there: it is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Report

KEYS = ("prompt_id", "pos_id", "layer", "point", "verdict", "code", "phase", "bits")
NUMBERS = ("compared", "differing", "max_abs", "rel_l2", "max_ulp", "cosine", "nmse")
ROWS_MAX = 20
"""Rows that a notebook shows; `Report.to_pandas` has all."""
COLOURS = {"PASS": "#1a7f37", "FAIL": "#cf222e", "INCONCLUSIVE": "#9a6700"}


def cell(value: Any) -> str:
    """One value as text, escaped."""
    text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return escape(text)


def table(head: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """A table."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def summary(report: Report) -> str:
    """The verdict, what explains it, and the first rows that are at fault or not decided."""
    colour = COLOURS.get(report.verdict, "inherit")
    sub = f" ({escape(report.sub_verdict)})" if report.sub_verdict else ""
    parts = [f'<h3 style="color:{colour}">{escape(report.verdict)}{sub}</h3>']
    if report.cause:
        where = f"{report.cause.point}, layer {report.cause.layer}, {report.cause.phase}"
        given = ", ".join(f"{name} = {value}" for name, value in report.cause.parameters.items())
        parts.append(f"<p><b>{escape(report.cause.hypothesis)}</b> at {escape(where)}. {escape(given)}</p>")
    elif report.root_cause:
        parts.append(f"<p><b>{escape(report.root_cause)}</b>. {escape(report.root_cause_why)}</p>")
    if report.reasons:
        why = [(reason.code, reason.count, reason.sentence, reason.hint) for reason in report.reasons]
        parts.append(table(("reason", "times", "what", "hint"), why))
    pairs = report.pairs
    counts = ("total", "identical", "structural", "inherited", "contract", "fault", "non_finite", "missing", "undecided")
    parts.append(table(counts, [[getattr(pairs, name) for name in counts]]))
    shown = [row for row in report.rows if row.verdict in ("FAULT", "NON_FINITE", "UNDECIDED", "MISSING")]
    if shown:
        lines = [[*(getattr(row, key) for key in KEYS), row.numbers.rel_l2 if row.numbers else None] for row in shown]
        parts.append(table((*KEYS, "rel_l2"), lines[:ROWS_MAX]))
    if len(shown) > ROWS_MAX:
        parts.append(f"<p>{len(shown) - ROWS_MAX} more: see <code>to_pandas()</code></p>")
    return "".join(parts)
