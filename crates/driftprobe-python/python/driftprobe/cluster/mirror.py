"""A node's own copies of objects: fetched once, whole or not there, and of what was listed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import Error
from .s3 import Changed, Client, Object, each

UNUSED_SECONDS = 3 * 86400
"""Copies that nobody asked for that long are deleted."""

ABOVE = "s3:"
"""Folder above that of a bucket: a run's name, which is the end of its path, is the same on all nodes."""


class Mirror:
    """A folder of copies. Objects lie in it by what they are, and views hold them under their names, by links."""

    def __init__(self, folder: str | None) -> None:
        """Opens this user's copies in a folder, or among the files that last for a while only."""
        above = Path(folder or os.environ.get("DRIFTPROBE_CACHE") or tempfile.gettempdir()).absolute()
        # Everybody may write among temporary files: what lies there must be one's own.
        self.root = above / f"driftprobe-{os.getuid()}"
        hint = "name another folder of each node with --cache"
        try:
            above.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            if self.root.is_symlink() or self.root.stat().st_uid != os.getuid():
                raise Error(f"{self.root} belongs to somebody else", hint)
            for inner in ("objects", "views", "scratch"):
                (self.root / inner).mkdir(exist_ok=True)
        except OSError as e:
            raise Error(f"{self.root} cannot be written: {e}", hint) from e

    @contextmanager
    def view(self, client: Client, prefix: str, objects: Mapping[str, Object]) -> Iterator[Path]:
        """A folder with these objects, by key without `prefix`; nobody else fetches them meanwhile, and nobody deletes them."""
        listed = [f"{name}\0{found.tag}\0{found.size}\0{found.sha256}" for name, found in sorted(objects.items())]
        key = _digest(client.endpoint, client.bucket, prefix, *listed)
        top = self.root / "views" / key
        with (self.root / "views" / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(lock.name)
            folder = top.joinpath(ABOVE, client.bucket, *PurePosixPath(prefix).parts)
            folder.mkdir(parents=True, exist_ok=True)
            self.fill(folder, client, prefix, objects)
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield folder
        self._sweep()

    def fill(
        self, folder: Path, client: Client, prefix: str, objects: Mapping[str, Object], without_changed: bool = False
    ) -> None:
        """Puts these objects into a folder, by key without `prefix`. What is there and right stays.

        Raises:
            Error: if one of them cannot be written, or is not what was listed; `without_changed` leaves those out.
        """

        def put(item: tuple[str, Object]) -> None:
            name, wanted = item
            path = folder.joinpath(*PurePosixPath(name).parts)
            if _is(path, wanted):
                return
            try:
                copy = self._copy(client, prefix + name, wanted)
            except Changed:
                if without_changed:
                    return
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            try:
                os.link(copy, path)
            except OSError:
                # Not every file system has links.
                shutil.copy2(copy, path)

        try:
            each(put, objects.items())
        except OSError as e:
            hint = "make room there, or name another folder of each node with --cache"
            raise Error(f"{self.root} does not take copies of s3://{client.bucket}/{prefix}: {e}", hint) from e

    def _copy(self, client: Client, key: str, wanted: Object) -> Path:
        """One object's file, fetched if need be."""
        name = _digest(client.endpoint, client.bucket, key, wanted.tag, str(wanted.size), str(wanted.sha256))
        path = self.root / "objects" / name[:2] / name
        if not _is(path, wanted):
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(f".{name}.{uuid.uuid4().hex}")
            try:
                client.fetch(key, wanted, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder, which is gone afterwards: if its user was killed, when the next one comes."""
        self._sweep_scratch()
        folder = self.root / "scratch" / uuid.uuid4().hex
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)

    def _sweep_scratch(self) -> None:
        for path in (self.root / "scratch").glob("*.lock"):
            with _locked_by_nobody(path) as free:
                if free:
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Deletes what nobody has used for long."""
        before = time.time() - UNUSED_SECONDS
        for path in (self.root / "views").glob("*.lock"):
            with _locked_by_nobody(path) as free:
                if free and path.stat().st_mtime < before:
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink(missing_ok=True)
        for path in (self.root / "objects").glob("*/*"):
            try:
                found = path.stat()
                # Linked from no view, and for as long.
                if found.st_nlink == 1 and found.st_ctime < before:
                    path.unlink()
            except OSError:
                continue


@contextmanager
def _locked_by_nobody(path: Path) -> Iterator[bool]:
    """Whether a lock's holders are all gone; it stays taken meanwhile."""
    try:
        lock = path.open("r+")
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free


def _is(path: Path, wanted: Object) -> bool:
    """Whether a copy is there, whole: somebody may have tidied up."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == wanted.size and abs(found.st_mtime - wanted.modified) < 1e-3


def _digest(*words: str) -> str:
    found = hashlib.sha256()
    for word in words:
        found.update(f"{len(word)}:{word}".encode())
    return found.hexdigest()[:40]
