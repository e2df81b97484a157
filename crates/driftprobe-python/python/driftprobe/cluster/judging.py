"""`driftprobe cluster analyze`: the prompts of many runs judged on many nodes, and merged to the bytes of one machine."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Error
from .child import program
from .fan import Cluster, Interrupted, Lost, Resources, connected
from .progress import Progress
from .recording import REFUSED, unseen_directory
from .s3 import Unavailable
from .storage import MANIFEST_FILE, S3, Address, Place, Where, listing_of, plans_in

PARTS_A_SLOT = 4
"""Parts for each task that the cluster can run at once: more are more even, and each looks once through all events."""


@dataclass
class Merged:
    """The verdict on all runs; merged.md, merged.tsv and merged.json lie in `folder`."""

    folder: Path | str
    """Where the results lie, and the reports; a place that is no folder as text."""
    exit_code: int = 3
    """That of the verdict: 0 PASS, 1 FAIL, 3 INCONCLUSIVE."""
    printed: str = ""
    """What `driftprobe merge` says of it."""
    report: str = field(default="", repr=False)
    """Text of merged.json."""
    lost: dict[str, str] = field(default_factory=dict)
    """By part: why its task died as often as it was tried. Its prompts are missing in the verdict."""
    unrecorded: list[str] = field(default_factory=list)
    """Probes that `cluster run` was to record and that are not there. They are missing in the verdict too."""
    parts: int = 0
    """Tasks that all prompts were divided into."""
    layer_parts: int = 1
    """Tasks before them, each for a range of all layers; 1: none."""
    seconds: float = 0.0
    """From the first task to the last."""
    busy_seconds: float = 0.0
    """In the program, all tasks together."""

    @property
    def data(self) -> dict[str, Any]:
        """merged.json."""
        loaded: dict[str, Any] = json.loads(self.report)
        return loaded

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        return str(self.data["verdict"])


def analyze(
    runs: Sequence[Address],
    out: Address,
    address: str = "auto",
    *,
    args: Sequence[str] = (),
    parts: int | None = None,
    layer_parts: int = 1,
    resources: Resources | None = None,
    show: Sequence[str] = (),
    s3: S3 | None = None,
) -> Merged:
    """Judges every prompt of the runs and merges: the same bytes as `driftprobe analyze --by-prompt` on one machine. What is
    judged already is not judged again.

    Args:
        runs: runs, and folders of runs, which all nodes must see under the same paths; or s3://bucket/prefix.
        out: the folder for results and reports, which all nodes must see; or s3://bucket/prefix.
        address: the cluster: `host:port`, `auto`, or `local`.
        args: further arguments of `driftprobe analyze`, such as `--model`.
        parts: how many tasks all prompts are divided into; by default four for each that the cluster can run at once.
        layer_parts: into how many ranges of layers every prompt is cut, whose stages are judged before the prompts are, each by
            a task of its own: for prompts that are fewer than the cluster's cores.
        resources: what each task asks for, and how often it is tried.
        show: options of `driftprobe merge`, such as `--format json`.
        s3: how storage is reached that is no folder.

    Raises:
        Error: if runs, folder or cluster cannot be used.
    """
    where = Where.at(out, s3)
    results = where.open()
    sources = [_source(Where.at(path, s3)) for path in runs]
    results.prepare()
    results.forget_plans()
    merged = Merged(Path(where.address) if results.shared else where.address)
    with connected(address, resources or Resources()) as cluster:
        merged.parts = parts or _prime(PARTS_A_SLOT * cluster.nodes().slots)
        # Once, and not with every task: of many runs there are many objects.
        seen = cluster.ray.put([source.seen for source in sources])
        work = Work([source.where for source in sources], where, args, cluster.resources.threads(), os.getcwd())
        merged.layer_parts = layer_parts
        started = time.monotonic()
        if layer_parts > 1:
            _judge(cluster, results, ("--layer-shard", layer_parts), (work, seen), merged)
        _judge(cluster, results, ("--shard", merged.parts), (work, seen), merged)
        merged.seconds = time.monotonic() - started
    lacking = {name: prompts for source in sources for name, prompts in source.lacking().items()}
    merged.unrecorded = list(lacking)
    with results.merging() as folder, tempfile.TemporaryDirectory() as beside:
        folders = [str(folder), *_missing_probes(lacking, folder, Path(beside))]
        done = program(["merge", *folders, "--out", str(folder), *show], {}, kept=None)
        if done.status not in (0, 1, 3):
            raise _refused(results.shown(done.err), results)
        merged.report = (folder / "merged.json").read_text()
    merged.exit_code, merged.printed = done.status, results.shown(done.out)
    return merged


@dataclass(frozen=True)
class Source:
    """Runs that are to be judged, as the driver knows them."""

    where: Where
    place: Place
    seen: Any
    """What all tasks are to find there."""
    listed: list[dict[str, Any]]
    """Probes that were to be recorded there, as far as somebody said."""

    def lacking(self) -> dict[str, list[str]]:
        """Those of them that are not there, with their prompts as far as they are known."""
        names = [probe["name"] for probe in self.listed]
        if self.seen is None:
            there = self.place.recorded(names)
        else:
            there = {name for name in names if f"{name}/{MANIFEST_FILE}" in self.seen}
        # Under the whole path no other run can be it.
        return {self.place.inner(probe["name"]): probe["prompts"] for probe in self.listed if probe["name"] not in there}


@dataclass(frozen=True)
class Work:
    """What all tasks are told."""

    sources: list[Where]
    out: Where
    args: Sequence[str]
    """Further arguments of the program."""
    threads: int
    cwd: str
    """What relative paths count from."""


def _source(where: Where) -> Source:
    place = where.open()
    return Source(where, place, place.seen(), listing_of(place) or [])


def _judge(cluster: Cluster, results: Place, cut: tuple[str, int], asked: tuple[Work, Any], merged: Merged) -> None:
    """Has every part judged, of what the program cuts at this option: prompts, or before them layers."""
    option, parts = cut
    of_layers = option == "--layer-shard"
    progress = Progress("layers judged" if of_layers else "judged", 0)
    jobs = {f"{index}/{parts}": ((option, f"{index}/{parts}"), *asked) for index in range(1, parts + 1)}
    ended = 0

    def tick(running: int, nodes: Any) -> None:
        progress.done, progress.total = (None if of_layers else results.counted()) or (ended, parts)
        progress.show(running, nodes)

    try:
        for shard, outcome in cluster.fan_out(judge, jobs, tick):
            ended += 1
            if isinstance(outcome, Lost):
                # Of layers nothing is lost: who judges the prompt judges them too.
                if not of_layers:
                    merged.lost[shard] = outcome.why
            elif outcome["refused"]:
                # As one machine would have: what cannot be read there cannot be read anywhere.
                raise _refused(outcome["refused"], results)
            else:
                merged.busy_seconds += outcome["seconds"]
    finally:
        progress.finish()


def judge(cut: tuple[str, str], work: Work, seen: list[Any]) -> dict[str, Any]:
    """A task: judges one part of all prompts, or of the layers of all prompts, of what was `seen`; the result of each goes to
    `out` as it comes."""
    started = time.monotonic()
    node = socket.gethostname()
    try:
        results, places = work.out.open(), [where.open() for where in work.sources]
        if lack := results.unseen() or unseen_directory(work.cwd, [results, *places]):
            return {"refused": lack, "seconds": 0.0}
        with ExitStack() as stack:
            runs = [str(stack.enter_context(place.reading(known))) for place, known in zip(places, seen)]
            folder = stack.enter_context(results.judging())
            words = ["analyze", *runs, *work.args, "--jobs", str(work.threads), "--out", str(folder), *cut]
            folder_of_work = work.cwd if Path(work.cwd).is_dir() else None
            done = program(words, {"RAYON_NUM_THREADS": str(work.threads)}, folder_of_work)
            if done.status not in (0, REFUSED):
                raise Interrupted(f"exit status {done.status}: {done.err.strip()[-500:]}")
    except Unavailable as e:
        raise Interrupted(f"node {node}: {e}") from e
    except Error as e:
        return {"refused": f"node {node}: {e}", "seconds": 0.0}
    said = done.err.strip()
    for place in (results, *places):
        said = place.shown(said)
    return {"refused": said if done.status else None, "seconds": time.monotonic() - started}


def _refused(said: str, results: Place) -> Error:
    """What the program could not do, in its own words."""
    what, _, hint = said.strip().removeprefix("error:").strip().partition("\nhint:")
    return Error(what or f"{results.inner('')}: the program said nothing", hint.strip() or None)


def _missing_probes(lacking: dict[str, list[str]], folder: Path, beside: Path) -> list[str]:
    """A folder for the merge that promises the runs which were to be recorded and are not there: so they are missed."""
    promise = {name: prompts or ["not recorded"] for name, prompts in lacking.items()}
    plans = plans_in(folder)
    if not promise or not plans:
        return []
    plan = {**json.loads(plans[0].read_text()), "shard": None, "promise": promise, "units": []}
    (beside / "plan.json").write_text(json.dumps(plan))
    return [str(beside)]


def _prime(least: int) -> int:
    """The first prime from there on: where all runs have equally many prompts, no part gets the longest of each."""
    number = max(2, least)
    while any(number % factor == 0 for factor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
