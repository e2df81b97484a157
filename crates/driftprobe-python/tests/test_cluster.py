"""A real Ray cluster of two one-core nodes: the same bytes as one machine, whoever is killed; and nothing missing that passes.

Run by .ci/cluster.sh, without the conftest of the other tests, which needs torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.cluster_utils import Cluster
from ray_nodes import (
    LONG,
    SMALL,
    UNSIMULATED,
    doomed_node,
    driftprobe,
    ended,
    eventually,
    kill,
    lines,
    on,
    programs,
    programs_on,
    reports,
    started,
    two_nodes,  # noqa: F401
)


@pytest.fixture(scope="module")
def recorded(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that the cluster recorded, one of them with a fault."""
    folder = tmp_path_factory.mktemp("shared")
    matrix = lines(folder / "m.json", SMALL, [*SMALL, "--dtype", "bf16"], [*SMALL, "--fault", "GQA_MAP@decode:layer0"])
    said = driftprobe(*on(cluster, "run", matrix, "--out", folder / "runs"))
    assert "probes: 3 recorded" in said and not (folder / "runs" / ".partial").exists()
    return folder / "runs"


def test_runs_are_those_of_one_machine(recorded: Path, tmp_path: Path) -> None:
    driftprobe("run", *SMALL, "--record-only", "--out", str(tmp_path / "run"))
    [cluster_run] = [run for run in recorded.iterdir() if run.name.startswith("1-")]
    traces = sorted(path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*.jsonl"))
    assert len(traces) > 2
    for trace in traces:
        assert (cluster_run / trace).read_bytes() == (tmp_path / "run" / trace).read_bytes(), trace


def test_reports_are_those_of_one_machine(cluster: Cluster, recorded: Path, tmp_path: Path) -> None:
    driftprobe("analyze", "--by-prompt", str(recorded), "--out", str(tmp_path / "one"), status=1)
    said = driftprobe(*on(cluster, "analyze", recorded, "--out", tmp_path / "many"), status=1)
    assert reports(tmp_path / "many") == reports(tmp_path / "one")
    assert said.startswith("FAIL") and "GQA_MAP" in (tmp_path / "many" / "merged.md").read_text()
    # Another number of parts, out of results that are there.
    driftprobe(*on(cluster, "analyze", recorded, "--out", tmp_path / "many", "--parts", "2"), status=1)
    assert reports(tmp_path / "many") == reports(tmp_path / "one")
    shown = driftprobe(*on(cluster, "analyze", recorded, "--out", tmp_path / "many", "--format", "json"), status=1)
    assert shown == (tmp_path / "one" / "merged.json").read_text()


def test_what_is_missing_never_passes(cluster: Cluster, tmp_path: Path) -> None:
    matrix, runs, out = lines(tmp_path / "m.json", SMALL, [*SMALL, "--seed", "2"]), tmp_path / "runs", tmp_path / "out"
    record = on(cluster, "run", matrix, "--out", runs)
    judge = on(cluster, "analyze", runs, "--out", out)
    driftprobe(*record)
    driftprobe(*judge)
    sound = reports(out)
    # A result that goes astray before the merge.
    sorted((out / "units").iterdir())[0].unlink()
    assert "INCONCLUSIVE" in driftprobe("merge", str(out), status=3)
    driftprobe(*judge)
    assert reports(out) == sound
    # A run that was to be recorded.
    shutil.rmtree(runs / "2-layers-0-repeats-0-only-p0_short-seed-2")
    said = driftprobe(*judge, status=3)
    assert said.startswith("INCONCLUSIVE") and "2-layers-0-repeats-0-only-p0_short-seed-2 was to be recorded" in said
    assert json.loads((out / "merged.json").read_text())["missing"] == 1
    assert "probes: 1 recorded, 1 known" in driftprobe(*record)
    driftprobe(*judge)
    assert reports(out) == sound


def test_a_node_that_is_killed_while_it_records_costs_no_rows(cluster: Cluster, tmp_path: Path) -> None:
    matrix, runs = lines(tmp_path / "m.json", *([*LONG, "--seed", str(seed)] for seed in range(3))), tmp_path / "runs"
    doomed = doomed_node(cluster)
    recording = started(*on(cluster, "run", matrix, "--out", runs))
    [(_, _, words), *_] = eventually(lambda: programs_on(doomed))
    kill(cluster, doomed)
    name = words.partition("/.partial/")[2].split()[0].rpartition("-")[0]
    assert name and not (runs / name).exists(), "killed too late"
    assert "probes: 3 recorded" in ended(recording)
    assert (runs / name).exists() and not (runs / ".partial").exists()
    driftprobe("analyze", "--by-prompt", str(runs), "--out", str(tmp_path / "one"), *UNSIMULATED[1:])
    driftprobe(*on(cluster, "analyze", runs, "--out", tmp_path / "many", *UNSIMULATED))
    assert reports(tmp_path / "many") == reports(tmp_path / "one")
    merged = json.loads((tmp_path / "many" / "merged.json").read_text())
    assert (merged["promised"], merged["missing"]) == (12, 0)


def test_nodes_share_the_layers_of_one_prompt(cluster: Cluster, tmp_path: Path) -> None:
    matrix, runs = lines(tmp_path / "m.json", [*LONG, "--only", "p0_short"]), tmp_path / "runs"
    driftprobe(*on(cluster, "run", matrix, "--out", runs))
    driftprobe("analyze", "--by-prompt", str(runs), "--out", str(tmp_path / "one"), *UNSIMULATED[1:])
    judge = on(cluster, "analyze", runs, "--out", tmp_path / "many", "--layer-parts", "6")
    doomed = doomed_node(cluster)
    judging = started(*judge, *UNSIMULATED)
    [(_, _, words), *_] = eventually(lambda: programs_on(doomed))
    kill(cluster, doomed)
    assert "--layer-shard" in words, "killed too late"
    ended(judging)
    assert reports(tmp_path / "many") == reports(tmp_path / "one")
    assert sorted(path.name.partition(".")[2] for path in (tmp_path / "many" / "layers").iterdir()) == [
        f"{index}-of-6.json" for index in range(1, 7)
    ]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six runs, and what one machine says of them."""
    folder = tmp_path_factory.mktemp("six")
    words = ["--layers", "0,1", "--repeats", "0", "--only", "p0_short", "--record-only"]
    for seed in range(6):
        driftprobe("run", *words, "--seed", str(seed), "--out", str(folder / "runs" / f"seed-{seed}"))
    driftprobe("analyze", "--by-prompt", str(folder / "runs"), "--out", str(folder / "one"))
    return folder / "runs", folder / "one"


def test_a_node_that_is_killed_while_it_judges_costs_no_rows(cluster: Cluster, six: Any, tmp_path: Path) -> None:
    runs, one = six
    doomed = doomed_node(cluster)
    judging = started(*on(cluster, "analyze", runs, "--out", tmp_path))
    eventually(lambda: programs_on(doomed))
    kill(cluster, doomed)
    assert not (tmp_path / "merged.json").exists(), "killed too late"
    ended(judging)
    assert reports(tmp_path) == reports(one)


def test_a_worker_that_is_killed_costs_no_rows_and_leaves_no_program(cluster: Cluster, six: Any, tmp_path: Path) -> None:
    runs, one = six
    judging = started(*on(cluster, "analyze", runs, "--out", tmp_path, "--parts", "3"))
    program, worker, _ = eventually(lambda: next(programs(), None))
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: all(own != program for own, _, _ in programs()))
    assert not (tmp_path / "merged.json").exists(), "killed too late"
    # The program alone: its worker lives, and sees that it was ended from outside.
    program, worker, _ = eventually(lambda: next(programs(), None))
    os.kill(program, signal.SIGKILL)
    ended(judging)
    assert reports(tmp_path) == reports(one)


def test_a_task_that_is_lost_for_good_is_said_and_does_not_pass(cluster: Cluster, six: Any, tmp_path: Path) -> None:
    matrix, runs = lines(tmp_path / "m.json", LONG), tmp_path / "runs"
    recording = started(*on(cluster, "run", matrix, "--out", runs, "--retries", "0"))
    os.kill(eventually(lambda: next(programs(), None))[0], signal.SIGKILL)
    assert "was lost" in ended(recording, 2)
    assert "probes: 1 recorded" in driftprobe(*on(cluster, "run", matrix, "--out", runs))

    runs, one = six
    judge = on(cluster, "analyze", runs, "--out", tmp_path / "out", "--parts", "2")
    judging = started(*judge, "--retries", "0")
    os.kill(eventually(lambda: next(programs(), None))[1], signal.SIGKILL)
    said = ended(judging, 3)
    assert "was lost" in said and said.startswith("INCONCLUSIVE")
    driftprobe(*judge)
    assert reports(tmp_path / "out") == reports(one)


def test_what_cannot_be_done_is_said_once(cluster: Cluster, tmp_path: Path) -> None:
    matrix, runs = lines(tmp_path / "m.json", SMALL, ["--layers", "99"]), tmp_path / "runs"
    said = driftprobe(*on(cluster, "run", matrix, "--out", runs), status=2)
    assert "probes: 1 recorded" in said and "2-layers-99 could not be recorded" in said and "hint: " in said
    assert "could not" not in driftprobe(*on(cluster, "run", lines(tmp_path / "n.json", SMALL), "--out", tmp_path / "n"))
    said = driftprobe(*on(cluster, "run", lines(tmp_path / "o.json", SMALL), "--out", runs), status=2)
    assert "another matrix" in said
    said = driftprobe(*on(cluster, "analyze", tmp_path / "n", "--out", tmp_path / "r", "--num-gpus", "1"), status=2)
    assert "no node of the cluster offers what a task asks for (CPU: 1, GPU: 1)" in said
    said = driftprobe(*on(cluster, "analyze", tmp_path / "nowhere", "--out", tmp_path / "r"), status=2)
    assert "nowhere" in said and "hint: " in said
    said = driftprobe("cluster", "run", str(matrix), "--out", str(runs), "--address", "127.0.0.1:1", status=2)
    assert "no Ray cluster at 127.0.0.1:1" in said
