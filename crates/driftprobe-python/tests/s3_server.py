"""An S3 server for tests: moto's, as a process of its own, over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

BUCKET = "probes"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
ALONE = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
"""Nothing that this machine's user has set up, and no question to a cloud."""


class Server:
    """Its process, its log, and one bucket."""

    def __init__(self, log: Path, env: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.log = log
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **env})
        until = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert self.process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        session = boto3.session.Session("reader", "secret", region_name="us-east-1")
        self.client: Any = session.client("s3", endpoint_url=self.endpoint)
        self.client.create_bucket(Bucket=BUCKET)

    def keys(self, prefix: str = "") -> list[str]:
        """Of all objects below."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def write(self, key: str, data: bytes) -> None:
        """Puts an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def delete(self, *keys: str) -> None:
        """Deletes objects."""
        for key in keys:
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def copy(self, prefix: str, folder: Path) -> Path:
        """What lies below `prefix` as files, by other means than those that are tested."""
        for key in self.keys(prefix):
            path = folder / key[len(prefix) :]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(key))
        return folder

    def send(self, folder: Path, prefix: str) -> None:
        """The other way round."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(prefix + path.relative_to(folder).as_posix(), path.read_bytes())

    def asked(self, method: str, part: str) -> list[str]:
        """Paths of the requests so far whose path has `part` in it."""
        found = (line.partition(f'"{method} ')[2].split()[:1] for line in self.log.read_text(errors="replace").splitlines())
        return [path for words in found for path in words if part in path]


@contextmanager
def serving(log: Path, **env: str) -> Iterator[Server]:
    """A server that runs for as long."""
    server = Server(log, env)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
