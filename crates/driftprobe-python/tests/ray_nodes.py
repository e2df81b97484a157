"""A real Ray cluster of two one-core nodes for tests, and what kills its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

REPORTS = ("merged.md", "merged.tsv", "merged.json")
SMALL = ["--layers", "0", "--repeats", "0", "--only", "p0_short"]
LONG = ["--layers", "all", "--prompt-tokens", "200", "--repeats", "3"]
"""Records for seconds: long enough to be killed on the way."""
UNSIMULATED = ["--", "--simulate", "0"]
"""Judges LONG in little time: of all layers there is nothing that only simulation could say."""
PATIENCE_SECONDS = 600

LIMITS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module", name="cluster")
def two_nodes() -> Iterator[Cluster]:
    """Two nodes of one core; a test that kills one gives it another one."""
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 10}
    head = {**LIMITS, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(**LIMITS)
        yield made
    finally:
        made.shutdown()


def started(*words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    pipe, env = subprocess.PIPE, {**os.environ, **(env or {})}
    return subprocess.Popen([sys.executable, "-m", "driftprobe", *words], stdout=pipe, stderr=pipe, text=True, env=env)


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == status, out + err
    return out + err


def driftprobe(*words: str, status: int = 0, env: Mapping[str, str] | None = None) -> str:
    return ended(started(*words, env=env), status)


def on(cluster: Cluster, command: str, *words: str | Path) -> tuple[str, ...]:
    return ("cluster", command, "--address", cluster.address, *map(str, words))


def lines(path: Path, *all_: list[str]) -> Path:
    path.write_text(json.dumps(all_))
    return path


def reports(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in REPORTS]


def eventually(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def programs() -> Iterator[tuple[int, int, str]]:
    """Programs of tasks that run now: the program's own id, its worker's, and its command line."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"from driftprobe.cluster.child import serve; serve()" in words:
                yield int(entry.name), parent(int(entry.name)), b" ".join(words).decode()
        except (OSError, ValueError):
            continue


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def doomed_node(cluster: Cluster) -> Any:
    return next(iter(cluster.worker_nodes), None) or cluster.add_node(**LIMITS)


def programs_on(node: Any) -> list[tuple[int, int, str]]:
    return [found for found in programs() if parent(found[1]) == raylet(node)]


def kill(cluster: Cluster, node: Any) -> None:
    """What a power cut does: nobody on the node can clean up; another node comes later."""
    os.kill(raylet(node), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
