"""Objects of one bucket of S3-compatible storage: listed, fetched, put; and in plain words why not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Error, needed

THREADS = 8
"""Requests at once."""

CHUNK_BYTES = 1 << 20
ATTEMPTS = 5
"""Of one request, the first among them."""

CONNECT_SECONDS = 10
READ_SECONDS = 60

CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, here or on every node, of somebody who may list, "
    "read and write there; --s3-endpoint says where storage is that is not AWS's"
)
ENDPOINT_HINT = "check --s3-endpoint (or AWS_ENDPOINT_URL), and that every node reaches it; the same command goes on from here"

T = TypeVar("T")
R = TypeVar("R")


class Unavailable(Error):
    """The storage did not answer, or not to the end; it may later."""


class Changed(Error):
    """An object is not, or no longer, the one that was listed."""


@dataclass(frozen=True)
class Object:
    """An object as it was listed."""

    size: int
    """In bytes."""
    tag: str
    """Its ETag: that of other bytes is another one."""
    modified: float
    """When it was written, in seconds since 1970."""
    sha256: str | None = None
    """Of its bytes, in hexadecimal, where somebody wrote it down."""


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of every item, some at once; the first error is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


class Client:
    """A connection to one bucket. May be used by many threads."""

    def __init__(self, bucket: str, endpoint: str | None) -> None:
        boto3 = needed("boto3", "s3://…")
        config = needed("botocore.config", "s3://…").Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=2 * THREADS,
        )
        self.bucket = bucket
        with told(f"s3://{bucket}"):
            self._client = boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
        self.endpoint = str(self._client.meta.endpoint_url)

    def url(self, key: str) -> str:
        """What people call an object."""
        return f"s3://{self.bucket}/{key}"

    def reach(self) -> None:
        """Raises an error unless the bucket is there and may be listed."""
        with told(self.url(""), self.endpoint):
            self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)

    def list(self, prefix: str) -> dict[str, Object]:
        """All objects whose key begins with `prefix`, by key."""
        found = {}
        with told(self.url(prefix), self.endpoint):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    found[entry["Key"]] = Object(entry["Size"], entry["ETag"], entry["LastModified"].timestamp())
        return found

    def holds(self, key: str) -> bool:
        """Whether there is an object of this key."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """An object's bytes; None: it is not there."""
        with told(self.url(key), self.endpoint), _absent() as answer:
            answer.append(self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])
        return answer[0] if answer else None

    def read(self, key: str) -> bytes | None:
        """A small object's bytes; None: it is not there."""
        with told(self.url(key), self.endpoint), _absent() as answer:
            answer.append(self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        return answer[0] if answer else None

    def fetch(self, key: str, wanted: Object, path: Path) -> None:
        """Writes an object into a file: all of it, and the one that was listed, or an error is raised."""
        for attempt in range(ATTEMPTS):
            try:
                return self._fetch(key, wanted, path)
            except Unavailable:
                # What breaks off in the middle is nobody else's to repeat.
                if attempt + 1 == ATTEMPTS:
                    raise

    def _fetch(self, key: str, wanted: Object, path: Path) -> None:
        found, size = hashlib.sha256(), 0
        with told(self.url(key), self.endpoint), path.open("wb") as file:
            body = self._client.get_object(Bucket=self.bucket, Key=key, IfMatch=wanted.tag)["Body"]
            for chunk in body.iter_chunks(CHUNK_BYTES):
                found.update(chunk)
                size += file.write(chunk)
        if size != wanted.size:
            raise Unavailable(f"{self.url(key)} broke off: {size} of {wanted.size} bytes", ENDPOINT_HINT)
        if wanted.sha256 is not None and found.hexdigest() != wanted.sha256:
            hint = "delete the run's manifest.json there and record it again: the same `cluster run` does"
            raise Error(f"{self.url(key)} does not hold the bytes that were recorded", hint)
        os.utime(path, (wanted.modified, wanted.modified))

    def write(self, key: str, data: bytes) -> None:
        """Puts a small object."""
        with told(self.url(key), self.endpoint):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def send(self, key: str, path: Path) -> None:
        """Puts a file of any size; what arrives is held against a checksum by the storage."""
        with told(self.url(key), self.endpoint):
            self._client.upload_file(str(path), self.bucket, key)

    def delete(self, key: str) -> None:
        """Deletes an object, which need not be there."""
        with told(self.url(key), self.endpoint):
            self._client.delete_object(Bucket=self.bucket, Key=key)


@contextmanager
def _absent() -> Iterator[list[Any]]:
    """A list for an answer; that an object is not there leaves it empty."""
    answer: list[Any] = []
    exceptions = needed("botocore.exceptions", "s3://…")
    try:
        yield answer
    except exceptions.ClientError as e:
        if _code(e)[0] not in ("NoSuchKey", "404"):
            raise


@contextmanager
def told(what: str, endpoint: str = "the endpoint") -> Iterator[None]:
    """Says what went wrong with `what` in words that help.

    Raises:
        Unavailable: if it is worth another try.
        Error: if it is not.
    """
    exceptions, boto3 = needed("botocore.exceptions", "s3://…"), needed("boto3.exceptions", "s3://…")
    try:
        yield
    except exceptions.ClientError as e:
        raise _refusal(what, e) from e
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as e:
        raise Unavailable(f"{what}: no answer from {endpoint}: {e}", ENDPOINT_HINT) from e
    except (exceptions.IncompleteReadError, exceptions.FlexibleChecksumError) as e:
        raise Unavailable(f"{what}: no whole answer from {endpoint}: {e}", ENDPOINT_HINT) from e
    except boto3.Boto3Error as e:
        # An upload's, which hides the one that says what was the matter.
        cause = e.__cause__ or e.__context__
        raise (_refusal(what, cause) if isinstance(cause, exceptions.ClientError) else Error(f"{what}: {e}")) from e
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError) as e:
        raise Error(f"{what}: there are no credentials: {e}", CREDENTIALS_HINT) from e
    except exceptions.ParamValidationError as e:
        raise Error(f"{what}: {e}", "expected s3://bucket/prefix") from e
    except exceptions.BotoCoreError as e:
        raise Error(f"{what}: {e}", CREDENTIALS_HINT) from e
    except ValueError as e:
        raise Error(f"{what}: {e}", "expected --s3-endpoint https://host:port") from e


def _code(e: Any) -> tuple[str, int]:
    """What the storage answered: its code, and HTTP's."""
    told_ = e.response.get("Error", {})
    return str(told_.get("Code", "")), int(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(what: str, e: Any) -> Error:
    code, status = _code(e)
    said = f"{code}: {e.response.get('Error', {}).get('Message', '')}".rstrip(": ")
    if code == "NoSuchBucket":
        return Error(f"{what}: that bucket is not there", "make it, or check its name and --s3-endpoint")
    if status in (401, 403):
        return Error(f"{what}: the storage refuses ({said})", CREDENTIALS_HINT)
    if status == 404:
        return Changed(f"{what} is not there", "was it deleted meanwhile? The same command tries again")
    if status == 412:
        return Changed(f"{what} was changed while it was read", "start again when nobody writes there")
    if status >= 500 or status == 429 or code in ("RequestTimeout", "SlowDown"):
        return Unavailable(f"{what}: the storage cannot answer ({said})", ENDPOINT_HINT)
    return Error(f"{what}: the storage refuses ({said})", "check the bucket's region (AWS_REGION) and --s3-endpoint")
