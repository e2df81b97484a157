"""Runs and results in a bucket: a run is there when its manifest is, which comes last, and its list says what belongs to it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from .._native import __version__
from ..errors import Error
from .mirror import ABOVE, Mirror
from .s3 import Client, Object, Unavailable, each, sha256
from .storage import LAYERS_DIR, MANIFEST_FILE, REPORTS, S3, SCHEME, UNITS_DIR, Place, is_plan, listing_of, plans_in

OBJECTS_FILE = ".objects.json"
"""In a run: names, sizes and checksums of its objects. It comes first: a run with a list and no manifest is half of one."""

INNER = re.compile(r"kv_aligned|search-[0-9]+")
"""Folders within a run that have a manifest and are no runs of their own."""

RECORDED = (".jsonl", ".jsonl.gz", ".safetensors", ".parquet")
"""How names end of what belongs to runs."""

RESULTS = (UNITS_DIR, LAYERS_DIR)
"""Folders in which results of judging lie, side by side."""

UPLOAD_SECONDS = 1.0
"""Results that there are go into the bucket that often."""

Seen = Mapping[str, Object]
"""Objects by key, without the place's own prefix."""


class Bucket(Place):
    """`s3://bucket/prefix`."""

    shared = False

    def __init__(self, address: str, s3: S3) -> None:
        bucket, _, prefix = address[len(SCHEME) :].partition("/")
        parts = [part for part in prefix.split("/") if part]
        if not bucket or any(part in (".", "..") for part in parts):
            raise Error(f"{address} is no place", "expected s3://bucket/prefix")
        self.prefix = "".join(f"{part}/" for part in parts)
        self.client = Client(bucket, s3.endpoint)
        self.mirror = Mirror(s3.cache)

    def inner(self, name: str) -> str:
        return self.client.url(self.prefix + name)

    def prepare(self) -> None:
        self.client.reach()

    def unseen(self) -> str | None:
        return None

    def read(self, name: str) -> bytes | None:
        return self.client.read(self.prefix + name)

    def write(self, name: str, data: bytes) -> None:
        self.client.write(self.prefix + name, data)

    def recorded(self, names: Sequence[str]) -> set[str]:
        there = each(lambda name: self.client.holds(f"{self.prefix}{name}/{MANIFEST_FILE}"), names)
        return {name for name, found in zip(names, there) if found}

    @contextmanager
    def recording(self, name: str) -> Iterator[Path]:
        with self.mirror.scratch() as folder:
            yield folder / name

    def keep(self, run: Path, name: str) -> None:
        names = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        sizes = {inner: (run / inner).stat().st_size for inner in names}
        sums = each(lambda inner: sha256(run / inner), names)
        objects = {inner: {"size": sizes[inner], "sha256": found} for inner, found in zip(names, sums)}
        listed = json.dumps({"generator": f"driftprobe {__version__}", "objects": objects}, indent=1).encode() + b"\n"
        top = f"{self.prefix}{name}/"

        def send(inner: str) -> None:
            self.client.send(top + inner, run / inner)

        self.client.write(top + OBJECTS_FILE, listed)
        each(send, [inner for inner in names if inner != MANIFEST_FILE])
        there = {key: found.size for key, found in self.client.list(top).items()}
        short = [inner for inner in names if inner != MANIFEST_FILE and there.get(top + inner) != sizes[inner]]
        if short or self.client.read(top + OBJECTS_FILE) != listed:
            # Another try of the same task, thought dead, may write there too.
            raise Unavailable(f"{self.inner(name)} is not what was sent: {', '.join(short) or 'its list'}")
        send(MANIFEST_FILE)
        if self.client.size(top + MANIFEST_FILE) != sizes[MANIFEST_FILE]:
            self.client.delete(top + MANIFEST_FILE)
            raise Unavailable(f"{self.inner(name)}/{MANIFEST_FILE} is not what was sent")

    def sweep(self) -> None:
        # What a killed task left on its node, the next task there deletes; what it left in the bucket is no run.
        return

    def seen(self) -> Seen:
        """Every object of every whole run.

        Raises:
            Error: if there is none, or one of them lacks something that was recorded.
        """
        listed = self.client.list(self.prefix)
        all_ = {key[len(self.prefix) :]: found for key, found in listed.items() if not key.endswith("/")}
        if odd := next((name for name in all_ if any(part in ("", ".", "..") for part in name.split("/"))), None):
            raise Error(f"{self.inner(odd)} cannot be a file", "delete it, or name the runs one by one")
        runs = whole_runs(all_)
        if part := next((run for run in sorted(runs) if INNER.fullmatch(PurePosixPath(run).name)), None):
            hint = "upload all of the run, or name the runs one by one"
            raise Error(f"{self.inner(part)} is part of a run whose {MANIFEST_FILE} is not there", hint)
        if not runs:
            hint = f"name a run, or what runs lie under; one is there when its {MANIFEST_FILE} is, which comes last"
            raise Error(f"{self.inner('')}: holds no run", hint)
        of_run: dict[str, dict[str, Object]] = {run: {} for run in runs}
        for name, found in all_.items():
            run = next((run for run in _above(name) if run in of_run), None)
            if run is not None and not _hidden(name):
                of_run[run][name] = found
            elif run is None and name.endswith(RECORDED) and not (_hidden(name) or _half(name, all_)):
                hint = f"was it uploaded whole? A run has a {MANIFEST_FILE}; else delete it, or name the runs one by one"
                raise Error(f"{self.inner(name)} belongs to no run", hint)
        by_us = {f"{probe['name']}/" for probe in listing_of(self) or []}
        with_list = [run for run in runs if run in by_us or f"{run}{OBJECTS_FILE}" in all_]
        each(lambda run: self._hold_against_list(run, all_, of_run), with_list)
        return {name: found for run in sorted(runs) for name, found in of_run[run].items()}

    def _hold_against_list(self, run: str, all_: Seen, of_run: dict[str, dict[str, Object]]) -> None:
        """Takes as a run's objects those of its list, and no others: a try that broke off may have left more."""
        hint = f"delete {self.inner(run)}{MANIFEST_FILE} and record the run again: the same `cluster run` does"
        try:
            objects = json.loads(self.read(f"{run}{OBJECTS_FILE}") or b"")["objects"]
            wanted = {f"{run}{name}": (int(one["size"]), str(one["sha256"])) for name, one in objects.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Error(f"{self.inner(run)}{OBJECTS_FILE} does not say what belongs to the run", hint) from e
        for name, (size, _) in wanted.items():
            if name not in all_:
                raise Error(f"{self.inner(name)} was recorded and is not there", hint)
            if all_[name].size != size:
                raise Error(f"{self.inner(name)} has {all_[name].size} bytes; {size} were recorded", hint)
        if f"{run}{MANIFEST_FILE}" not in wanted:
            raise Error(f"{self.inner(run)}{OBJECTS_FILE} names no {MANIFEST_FILE}", hint)
        of_run[run] = {name: replace(all_[name], sha256=found) for name, (_, found) in wanted.items()}

    @contextmanager
    def reading(self, seen: Seen) -> Iterator[Path]:
        with self.mirror.view(self.client, self.prefix, seen) as folder:
            yield folder

    @contextmanager
    def judging(self) -> Iterator[Path]:
        with self.mirror.scratch() as folder:
            # Those that another task replaces just now are its to replace.
            self._bring(folder, *(f"{inner}/" for inner in RESULTS), without_changed=True)
            sent = _stamps(folder)
            ended = threading.Event()

            def send() -> None:
                while not ended.wait(UPLOAD_SECONDS):
                    try:
                        self._send_new(folder, sent, plans=False)
                    except Error:
                        # At the end it is tried again, and told.
                        continue

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            try:
                yield folder
            finally:
                ended.set()
                sender.join()
            self._send_new(folder, sent, plans=True)

    def _send_new(self, folder: Path, sent: dict[str, tuple[int, int]], plans: bool) -> None:
        """Sends results that are not in the bucket yet; plans after them, which promise them."""
        units = {name: stamp for name, stamp in _stamps(folder).items() if sent.get(name) != stamp}

        def send(name: str) -> None:
            self.write(name, (folder / name).read_bytes())
            sent[name] = units[name]

        each(send, units)
        for plan in plans_in(folder) if plans else ():
            self.write(plan.name, plan.read_bytes())

    def _bring(self, folder: Path, *beginnings: str, without_changed: bool = False) -> None:
        """Puts those results into a folder that the bucket has."""
        for beginning in beginnings:
            listed = self.client.list(self.prefix + beginning)
            plain = {key[len(self.prefix) :]: found for key, found in listed.items() if key.endswith(".json")}
            # Results lie side by side, and plans beside their folders.
            level = {name: found for name, found in plain.items() if name.count("/") == beginning.count("/")}
            own = {name: found for name, found in level.items() if "/" in name or is_plan(name)}
            self.mirror.fill(folder, self.client, self.prefix, own, without_changed)

    @contextmanager
    def merging(self) -> Iterator[Path]:
        with self.mirror.scratch() as folder:
            self._bring(folder, "plan", f"{UNITS_DIR}/")
            yield folder
            for name in REPORTS:
                if (folder / name).is_file():
                    self.write(name, (folder / name).read_bytes())

    def forget_plans(self) -> None:
        for key in self.client.list(f"{self.prefix}plan"):
            if is_plan(key[len(self.prefix) :]):
                self.client.delete(key)

    def counted(self) -> tuple[int, int] | None:
        return None

    def shown(self, said: str) -> str:
        root = str(self.mirror.root)
        # Copies of runs: ROOT/views/HASH/s3:/bucket/…; results: ROOT/scratch/HASH/….
        words = []
        for at, part in enumerate(said.split(f"{root}{os.sep}")):
            kind, _, rest = part.partition("/")
            _, _, inner = rest.partition("/")
            if at and kind == "views" and inner.startswith(f"{ABOVE}/"):
                words.append(f"{SCHEME}{inner[len(ABOVE) + 1 :]}")
            elif at and kind == "scratch":
                words.append(self.inner(inner))
            else:
                words.append(f"{root}{os.sep}{part}" if at else part)
        return "".join(words)


def whole_runs(names: Mapping[str, Any]) -> set[str]:
    """Folders, each with a `/` at its end, of the runs whose manifest is there: the outermost ones, and no half of one."""
    folders = {name[: -len(MANIFEST_FILE)] for name in names if PurePosixPath(name).name == MANIFEST_FILE}
    runs = {folder for folder in folders if not (_hidden(folder) or _half(folder, names))}
    return {run for run in runs if not any(above in runs and above != run for above in _above(run))}


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _half(name: str, names: Mapping[str, Any]) -> bool:
    """Whether something lies in a run that is on its way, or whose way broke off."""
    return any(f"{above}{OBJECTS_FILE}" in names and f"{above}{MANIFEST_FILE}" not in names for above in _above(name))


def _above(name: str) -> Iterator[str]:
    """The folders that something lies in, from the outermost: `""`, `a/`, `a/b/`."""
    yield ""
    for at, char in enumerate(name):
        if char == "/":
            yield name[: at + 1]


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Results in a folder, by name, and what is another for another file: they are only ever replaced whole."""
    stamps = {}
    for path in chain.from_iterable((folder / inner).glob("[!.]*.json") for inner in RESULTS):
        try:
            found = path.stat()
        except OSError:
            continue
        stamps[f"{path.parent.name}/{path.name}"] = (found.st_ino, found.st_mtime_ns)
    return stamps
