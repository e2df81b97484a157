"""Where runs and results lie: in a folder that all nodes see, or in a bucket of S3-compatible storage."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Union

from ..errors import Error

PROBES_FILE = "probes.json"
"""Beside all runs: what was to be recorded, so that a run that is missing is missed."""

MANIFEST_FILE = "manifest.json"
UNITS_DIR = "units"
LAYERS_DIR = "layers"
REPORTS = ("merged.md", "merged.tsv", "merged.json")

PLAN = re.compile(r"plan(-[0-9]+-of-[0-9]+)?\.json")
"""Names of plans of what was to be judged; the program knows them by the same."""

PARTS_DIR = ".partial"
"""Runs on their way; nobody looks for runs in a hidden folder."""

SCHEME = "s3://"

ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)
"""Variables that every task is given, as far as they are set here; all else is each node's own."""

Address = Union[str, "PathLike[str]"]
"""A folder, or s3://bucket/prefix."""


def is_plan(name: str) -> bool:
    """Whether a file beside results is a plan by its name. Any other is somebody's own: neither read as a plan nor deleted."""
    return PLAN.fullmatch(name) is not None


def plans_in(folder: Path) -> list[Path]:
    """The plans in a folder of results, by name."""
    return sorted(path for path in folder.glob("plan*.json") if is_plan(path.name))


@dataclass(frozen=True)
class S3:
    """How storage is reached that is no folder."""

    endpoint: str | None = None
    """Its URL; None: that of AWS_ENDPOINT_URL, or AWS."""
    cache: str | None = None
    """Folder of each node for its copies; None: that of DRIFTPROBE_CACHE, or one in the folder for temporary files."""


class Place(ABC):
    """A folder of runs, or of results."""

    shared: bool
    """Whether all nodes must see it as a folder."""

    @abstractmethod
    def inner(self, name: str) -> str:
        """What people call something in it."""

    @abstractmethod
    def prepare(self) -> None:
        """Sees to it that it can be written; raises an error if it cannot."""

    @abstractmethod
    def unseen(self) -> str | None:
        """What this node lacks to use it; None: nothing."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A small file; None: it is not there."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes a small file, whole or not at all."""

    @abstractmethod
    def recorded(self, names: Sequence[str]) -> set[str]:
        """Those runs that are there, whole."""

    @abstractmethod
    def recording(self, name: str) -> AbstractContextManager[Path]:
        """A task's: a path for a new run, which is deleted afterwards."""

    @abstractmethod
    def keep(self, run: Path, name: str) -> None:
        """A task's: makes a whole run that was recorded there one of those that are here."""

    @abstractmethod
    def sweep(self) -> None:
        """Deletes what tasks left that were killed."""

    @abstractmethod
    def seen(self) -> Any:
        """The driver's: what the runs here are, so that all tasks read the same ones."""

    @abstractmethod
    def reading(self, seen: Any) -> AbstractContextManager[Path]:
        """A task's: a folder with those runs."""

    @abstractmethod
    def judging(self) -> AbstractContextManager[Path]:
        """A task's: a folder for results, in which lie those that there are already."""

    @abstractmethod
    def merging(self) -> AbstractContextManager[Path]:
        """The driver's: a folder with all results, for reports."""

    @abstractmethod
    def forget_plans(self) -> None:
        """Deletes what another number of parts was to do; results stay."""

    @abstractmethod
    def counted(self) -> tuple[int, int] | None:
        """Prompts judged, and all of them; None: that would cost too much."""

    @abstractmethod
    def shown(self, said: str) -> str:
        """What a program said, with the names that people have for things here."""


@dataclass(frozen=True)
class Where:
    """A place as a task is told of it."""

    address: str
    """An absolute path, or s3://bucket/prefix."""
    s3: S3 = field(default_factory=S3)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the process that asks, which storage is reached by."""

    @classmethod
    def at(cls, address: Address, s3: S3 | None) -> Where:
        """What `address` means here."""
        text = os.fspath(address)
        if not text.startswith(SCHEME):
            return cls(str(Path(text).absolute()))
        return cls(text, s3 or S3(), {name: os.environ[name] for name in ENVIRONMENT if name in os.environ})

    def open(self) -> Place:
        """The place, on this machine.

        Raises:
            Error: if the address is none, or this machine lacks what is needed.
        """
        if not self.address.startswith(SCHEME):
            return Folder(Path(self.address))
        from .bucket import Bucket

        if "AWS_ACCESS_KEY_ID" in self.environment:
            # Not half of a node's own.
            os.environ.pop("AWS_SESSION_TOKEN", None)
        os.environ.update(self.environment)
        return Bucket(self.address, self.s3)


class Folder(Place):
    """A folder that all nodes see under one path."""

    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def inner(self, name: str) -> str:
        return str(self.path / name)

    def prepare(self) -> None:
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)

    def unseen(self) -> str | None:
        return None if self.path.is_dir() else f"node {socket.gethostname()} does not see {self.path}: it must be shared"

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as e:
            raise Error(f"{path} cannot be read: {e}") from e

    def write(self, name: str, data: bytes) -> None:
        with self._writing():
            part = self.path / f".{name}.{uuid.uuid4().hex}"
            part.write_bytes(data)
            part.replace(self.path / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            hint = "name a folder that this machine and all nodes can write"
            raise Error(f"{self.path} cannot be written: {e}", hint) from e

    def recorded(self, names: Sequence[str]) -> set[str]:
        return {name for name in names if (self.path / name / MANIFEST_FILE).is_file()}

    @contextmanager
    def recording(self, name: str) -> Iterator[Path]:
        part = self.path / PARTS_DIR / f"{name}-{uuid.uuid4().hex}"
        try:
            part.parent.mkdir(exist_ok=True)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def keep(self, run: Path, name: str) -> None:
        try:
            run.rename(self.path / name)
        except OSError as e:
            # Another try of the same task, thought dead, was there first: one whole run is as good as the other.
            if not self.recorded([name]):
                raise Error(f"{self.path / name} cannot be made: {e}", "delete what is there, if it is no run") from e

    def sweep(self) -> None:
        shutil.rmtree(self.path / PARTS_DIR, ignore_errors=True)

    def seen(self) -> Any:
        return None

    @contextmanager
    def reading(self, seen: Any) -> Iterator[Path]:
        yield self.path

    @contextmanager
    def judging(self) -> Iterator[Path]:
        yield self.path

    @contextmanager
    def merging(self) -> Iterator[Path]:
        yield self.path

    def forget_plans(self) -> None:
        with self._writing():
            for plan in plans_in(self.path):
                plan.unlink()

    def counted(self) -> tuple[int, int] | None:
        plan = next(iter(plans_in(self.path)), None)
        try:
            promise = json.loads(plan.read_text())["promise"] if plan else {}
            total = sum(len(prompts) for prompts in promise.values())
            with os.scandir(self.path / UNITS_DIR) as units:
                return min(total, sum(not unit.name.startswith(".") for unit in units)), total
        except (OSError, ValueError, KeyError):
            return 0, 0

    def shown(self, said: str) -> str:
        return said


def listing_of(place: Place) -> list[dict[str, Any]] | None:
    """What was to be recorded into a place; None if nobody said."""
    text = place.read(PROBES_FILE)
    if text is None:
        return None
    try:
        listed = json.loads(text)["probes"]
        if all(isinstance(p["name"], str) and isinstance(p["prompts"], list) for p in listed) and listed:
            return list(listed)
    except (ValueError, KeyError, TypeError):
        pass
    what = f"{place.inner(PROBES_FILE)} does not say what was to be recorded"
    raise Error(what, "record the matrix again, into a new folder")
