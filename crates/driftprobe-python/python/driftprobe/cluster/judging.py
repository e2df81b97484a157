"""`driftprobe cluster analyze`: the prompts of many runs judged on many nodes, and merged to the bytes of one machine."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import Error
from .child import program
from .fan import Cluster, Interrupted, Lost, Resources, connected
from .progress import Progress
from .recording import REFUSED, listing_of

PARTS_A_SLOT = 4
"""Parts for each task that the cluster can run at once: more are more even, and each looks once through all events."""


@dataclass
class Merged:
    """The verdict on all runs; merged.md, merged.tsv and merged.json lie in `folder`."""

    folder: Path
    """Where the results lie, and the reports."""
    exit_code: int = 3
    """That of the verdict: 0 PASS, 1 FAIL, 3 INCONCLUSIVE."""
    printed: str = ""
    """What `driftprobe merge` says of it."""
    lost: dict[str, str] = field(default_factory=dict)
    """By part: why its task died as often as it was tried. Its prompts are missing in the verdict."""
    unrecorded: list[str] = field(default_factory=list)
    """Probes that `cluster run` was to record and that are not there. They are missing in the verdict too."""
    parts: int = 0
    """Tasks that all of it was divided into."""
    seconds: float = 0.0
    """From the first task to the last."""
    busy_seconds: float = 0.0
    """In the program, all tasks together."""

    @property
    def data(self) -> dict[str, Any]:
        """merged.json."""
        loaded: dict[str, Any] = json.loads((self.folder / "merged.json").read_text())
        return loaded

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        return str(self.data["verdict"])


def analyze(
    runs: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    address: str = "auto",
    *,
    args: Sequence[str] = (),
    parts: int | None = None,
    resources: Resources | None = None,
    show: Sequence[str] = (),
) -> Merged:
    """Judges every prompt of the runs, which all nodes must see under the same paths, and merges: the same bytes as `driftprobe
    analyze --by-prompt` on one machine. What is judged already is not judged again.

    Args:
        runs: runs, and folders of runs.
        out: the folder for results and reports, which all nodes must see.
        address: the cluster: `host:port`, `auto`, or `local`.
        args: further arguments of `driftprobe analyze`, such as `--model`.
        parts: how many tasks all prompts are divided into; by default four for each that the cluster can run at once.
        resources: what each task asks for, and how often it is tried.
        show: options of `driftprobe merge`, such as `--format json`.

    Raises:
        Error: if runs, folder or cluster cannot be used.
    """
    folder = Path(out).absolute()
    paths = [Path(path).absolute() for path in runs]
    resources = resources or Resources()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of another number of parts; results stay.
        for plan in folder.glob("plan*.json"):
            plan.unlink()
    except OSError as e:
        raise Error(f"{folder} cannot be written: {e}", "name a folder that this machine and all nodes can write") from e
    merged = Merged(folder)
    with connected(address, resources) as cluster:
        merged.parts = parts or _prime(PARTS_A_SLOT * cluster.nodes().slots)
        words = [*map(str, paths), *args, "--jobs", str(resources.threads()), "--out", str(folder)]
        _judge(cluster, words, merged)
    merged.unrecorded = [str(path / name) for path in paths for name in _unrecorded(path)]
    with tempfile.TemporaryDirectory() as beside:
        folders = [str(folder), *_missing_probes(paths, folder, Path(beside))]
        done = program(["merge", *folders, "--out", str(folder), *show], {}, kept=None)
    if done.status not in (0, 1, 3):
        raise _refused(done.err, folder)
    merged.exit_code, merged.printed = done.status, done.out
    return merged


def _judge(cluster: Cluster, words: list[str], merged: Merged) -> None:
    """Has every part judged."""
    progress = Progress("judged", 0)
    threads = cluster.resources.threads()
    shards = [f"{index}/{merged.parts}" for index in range(1, merged.parts + 1)]
    jobs = {shard: (str(merged.folder), shard, words, threads, os.getcwd()) for shard in shards}

    def tick(running: int, nodes: Any) -> None:
        progress.done, progress.total = _counted(merged.folder)
        progress.show(running, nodes)

    started = time.monotonic()
    try:
        for shard, outcome in cluster.fan_out(judge, jobs, tick):
            if isinstance(outcome, Lost):
                merged.lost[shard] = outcome.why
            elif outcome["refused"]:
                # As one machine would have: what cannot be read there cannot be read anywhere.
                raise _refused(outcome["refused"], merged.folder)
            else:
                merged.busy_seconds += outcome["seconds"]
    finally:
        progress.finish()
    merged.seconds = time.monotonic() - started


def judge(folder: str, shard: str, words: list[str], threads: int, cwd: str) -> dict[str, Any]:
    """A task: judges one part of all prompts; results of each go to the shared folder as they come."""
    import socket

    started = time.monotonic()
    for needed_there, why in ((Path(folder), "--out"), (Path(cwd), "the working directory")):
        if not needed_there.is_dir():
            said = f"node {socket.gethostname()} does not see {needed_there}: {why} must be shared"
            return {"refused": said, "seconds": 0.0}
    done = program(["analyze", *words, "--shard", shard], {"RAYON_NUM_THREADS": str(threads)}, cwd)
    if done.status not in (0, REFUSED):
        raise Interrupted(f"exit status {done.status}: {done.err.strip()[-500:]}")
    return {"refused": done.err.strip() if done.status else None, "seconds": time.monotonic() - started}


def _refused(said: str, folder: Path) -> Error:
    """What the program could not do, in its own words."""
    what, _, hint = said.strip().removeprefix("error:").strip().partition("\nhint:")
    return Error(what or f"{folder}: the program said nothing", hint.strip() or None)


def _unrecorded(path: Path) -> list[str]:
    listed = listing_of(path) or []
    return [probe["name"] for probe in listed if not (path / probe["name"] / "manifest.json").is_file()]


def _missing_probes(paths: Sequence[Path], folder: Path, beside: Path) -> list[str]:
    """A folder for the merge that promises the runs which were to be recorded and are not there: so they are missed."""
    promise = {}
    for path in paths:
        lacking = set(_unrecorded(path))
        for probe in listing_of(path) or []:
            if probe["name"] in lacking:
                # Under the whole path no other run can be it.
                promise[str(path / probe["name"])] = probe["prompts"] or ["not recorded"]
    plans = sorted(folder.glob("plan*.json"))
    if not promise or not plans:
        return []
    plan = {**json.loads(plans[0].read_text()), "shard": None, "promise": promise, "units": []}
    (beside / "plan.json").write_text(json.dumps(plan))
    return [str(beside)]


def _counted(folder: Path) -> tuple[int, int]:
    """Prompts judged, and all of them, as the files say."""
    plan = next(folder.glob("plan*.json"), None)
    try:
        promise = json.loads(plan.read_text())["promise"] if plan else {}
        total = sum(len(prompts) for prompts in promise.values())
        with os.scandir(folder / "units") as units:
            return min(total, sum(not unit.name.startswith(".") for unit in units)), total
    except (OSError, ValueError, KeyError):
        return 0, 0


def _prime(least: int) -> int:
    """The first prime from there on: where all runs have equally many prompts, no part gets the longest of each."""
    number = max(2, least)
    while any(number % factor == 0 for factor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
