"""What lies beside results in a folder that nodes share. Needs no cluster."""

import json
from pathlib import Path

from driftprobe.cluster.judging import _missing_probes
from driftprobe.cluster.storage import Folder, is_plan

PLANS = ["plan-1-of-3.json", "plan-2-of-3.json", "plan.json"]
"""As docs/scale.md names them."""
OWN = ["my-plan.json", "plan-0-budget.json", "plan-2024-budget.json", "plan-b-of-c.json", "planets.json"]
"""Somebody's own."""


def test_plans_are_known_by_their_whole_names() -> None:
    assert all(is_plan(name) for name in PLANS)
    odd = ["plan-1-of-2.json.bak", "plan-1-of-2.json\n", "plan-\u0661-of-2.json", "plan-1-of-.json", "units/plan.json", "plan", ""]
    assert not any(is_plan(name) for name in [*OWN, *odd])


def test_plans_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    for name in [*PLANS, *OWN]:
        (tmp_path / name).write_text("{}")
    Folder(tmp_path).forget_plans()
    assert sorted(path.name for path in tmp_path.iterdir()) == OWN


def test_what_was_promised_is_read_from_plans_alone(tmp_path: Path) -> None:
    for name in OWN:
        (tmp_path / name).write_text(json.dumps({"promise": {"mine": ["a", "b"]}}))
    (tmp_path / "beside").mkdir()
    (tmp_path / "units").mkdir()
    assert Folder(tmp_path).counted() == (0, 0)
    assert _missing_probes({"lost": []}, tmp_path, tmp_path / "beside") == []
    (tmp_path / "plan-1-of-1.json").write_text(json.dumps({"generator": "x", "promise": {"one": ["p"]}}))
    assert Folder(tmp_path).counted() == (0, 1)
    assert _missing_probes({"lost": []}, tmp_path, tmp_path / "beside") == [str(tmp_path / "beside")]
    made = json.loads((tmp_path / "beside" / "plan.json").read_text())
    assert made["generator"] == "x" and list(made["promise"]) == ["lost"]
