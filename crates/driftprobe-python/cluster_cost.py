"""What a cluster buys and costs:  python crates/driftprobe-python/cluster_cost.py [--rounds N] [--tasks N]

Ray nodes of one core on this machine, one and two by turns: the same runs recorded and judged, medians of the wall times; and
what a task costs beside the program that it starts. Nodes are warm: each has run a task before.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from driftprobe.cluster import Resources, analyze, run
from driftprobe.cluster.child import program
from driftprobe.cluster.fan import connected
from ray.cluster_utils import Cluster

LIMITS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
RECORDED = ["--layers", "all", "--prompt-tokens", "200", "--repeats", "3"]
JUDGED = ["--layers", "0,1", "--repeats", "0", "--only", "p0_short"]
EMPTY_TASKS = 100


def nothing(number: int) -> int:
    """A task without work."""
    return number


def empty_tasks(address: str) -> float:
    """Seconds for a task without work."""
    with connected(address, Resources()) as cluster:
        started = time.perf_counter()
        assert len(list(cluster.fan_out(nothing, {str(n): (n,) for n in range(EMPTY_TASKS)}, lambda *_: None))) == EMPTY_TASKS
        return (time.perf_counter() - started) / EMPTY_TASKS


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="What a cluster buys and costs.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=8)
    asked = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={**LIMITS, "include_dashboard": False})
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(cluster, Path(folder), asked.rounds, asked.tasks)
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(cluster: Cluster, folder: Path, rounds: int, tasks: int) -> None:
    """Measures and prints."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    run([[*JUDGED, "--seed", str(seed)] for seed in range(tasks)], folder / "judged", cluster.address)
    matrix = [[*RECORDED, "--seed", str(seed)] for seed in range(tasks)]
    walls: dict[tuple[str, int], list[float]] = {}
    overheads: dict[tuple[str, int], list[float]] = {}
    empty: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for nodes in (1, 2):
            extra = cluster.add_node(**LIMITS) if nodes == 2 else None
            cluster.wait_for_nodes()
            empty_tasks(cluster.address)
            empty[nodes].append(empty_tasks(cluster.address))
            here = folder / f"{number}-{nodes}"
            recorded = run(matrix, here / "runs", cluster.address)
            judged = analyze([folder / "judged"], here / "out", cluster.address, parts=tasks)
            assert recorded.complete and judged.exit_code == 0
            for what, done in (("record", recorded), ("judge", judged)):
                walls.setdefault((what, nodes), []).append(done.seconds)
                overheads.setdefault((what, nodes), []).append((done.seconds * nodes - done.busy_seconds) / tasks)
            if extra:
                cluster.remove_node(extra)
    start = statistics.median(seconds(lambda: program(["--version"], {})) for _ in range(5))
    print(f"{tasks} tasks, {rounds} rounds, medians; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for what in ("record", "judge"):
        one, two = (statistics.median(walls[what, nodes]) for nodes in (1, 2))
        over = [1e3 * statistics.median(overheads[what, nodes]) for nodes in (1, 2)]
        print(f"{what}: one node {one:.2f} s, two {two:.2f} s: {one / two:.2f} times as fast; "
              f"beside the tasks' own work {over[0]:.0f} and {over[1]:.0f} ms a task and node")  # fmt: skip
    print(
        f"an empty task: {1e3 * statistics.median(empty[1]):.1f} ms on one node, {1e3 * statistics.median(empty[2]):.1f} on two"
    )
    print(f"starting the program: {1e3 * start:.0f} ms a task")


if __name__ == "__main__":
    main()
