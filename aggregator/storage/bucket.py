"""Blobs in an S3-compatible store, through obstore; the optional package is needed only here.

An object is put in one piece, or in parts that become visible together, so it is there whole or not at all.
Files that still grow stay in the aggregator's own folder. Names are those of the folder store.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed, UnusableBlobs, named_aside
from aggregator.storage.crashpoints import step
from medveil.log import get_logger

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECE = 4 * 2**20
"""What is fetched at a time of a file that is read piece by piece."""
OPTIONS = {"endpoint", "region", "virtual_hosted_style_request"}
CLIENT = {"connect_timeout": "3s", "timeout": "15s"}
RETRY: Any = {"max_retries": 2, "retry_timeout": dt.timedelta(seconds=10)}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
log = get_logger()


def open_store(url: str) -> ObjectStore:
    """The store behind ``s3://bucket/prefix?endpoint=…&region=…``; credentials come from the environment.

    Raises: UnusableBlobs.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "s3" or not parts.hostname:
        raise UnusableBlobs(problem="the address does not read s3://BUCKET/PREFIX?endpoint=URL")
    if parts.username or parts.password or set(options) - OPTIONS:
        problem = f"the address takes {', '.join(sorted(OPTIONS))}; credentials belong in the environment"
        raise UnusableBlobs(problem=problem)
    endpoint = urlsplit(options.get("endpoint", "https://"))
    loopback = endpoint.hostname in LOOPBACK
    if endpoint.scheme != "https" and not (endpoint.scheme == "http" and loopback):
        raise UnusableBlobs(problem="its endpoint is not https")
    client: Any = {**CLIENT, "allow_http": endpoint.scheme == "http"}
    try:
        return S3Store(
            parts.hostname,
            prefix=parts.path.strip("/") or None,
            client_options=client,
            retry_config=RETRY,
            **cast("Any", options),
        )
    except (BaseError, ValueError) as error:
        raise UnusableBlobs(problem="the store does not take these settings") from error


@contextmanager
def _asked() -> Iterator[None]:
    """Turn the store's refusals into ours; only their kind goes to the log."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise DamagedBlob() from error
    except (BaseError, OSError) as error:
        log.error("storage.failed", reason=type(error).__name__)
        raise StorageFailed() from error


class BucketBlobs(Blobs):
    """Models, sums and masked segments in a bucket; what is not finished, in the folder.

    It crosses the pipe to a worker as its address: credentials do not, each process has them in its
    environment.
    """

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        super().__init__(folder)
        self._store = store

    def put_model(self, name: str, data: bytes) -> None:
        self._put(f"models/{name}", data)

    def open_model(self, name: str) -> BinaryIO:
        return self._open(f"models/{name}")

    def put_sum(self, name: str, data: bytes) -> None:
        self._put(f"sums/{name}", data)

    def open_sum(self, name: str) -> BinaryIO:
        return self._open(f"sums/{name}")

    def draft(self, attempt: str, name: str, token: str) -> Path:
        path = super().draft(attempt, name, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep_model(self, name: str, draft: Path) -> None:
        self._keep(f"models/{name}", draft)

    def keep_sum(self, name: str, draft: Path) -> None:
        self._keep(f"sums/{name}", draft)

    def _put_upload(self, attempt: str, name: str, data: bytes) -> None:
        self._put(f"uploads/{attempt}/{name}", data)

    def put_part(self, attempt: str, name: str, number: int, data: bytes) -> None:
        self._put_upload(attempt, f"{name}-{number}", data)

    @contextmanager
    def _mapped(self, attempt: str, name: str) -> Iterator[memoryview]:
        data = self._get(f"uploads/{attempt}/{name}")
        if not len(data):
            raise DamagedBlob()
        yield data

    def aside(self, attempt: str) -> set[tuple[int, int, str]]:
        with _asked():
            listed = [i["path"] for some in obstore.list(self._store, f"uploads/{attempt}/") for i in some]
        return set(named_aside(path.rpartition("/")[2] for path in listed))

    def uploads(self) -> set[str]:
        with _asked():
            found = obstore.list_with_delimiter(self._store, "uploads/")["common_prefixes"]
        return super().uploads() | {prefix.rstrip("/").rpartition("/")[2] for prefix in found}

    def forget_uploads(self, attempt: str) -> None:
        """See above. What the store does not remove now is removed at the next start."""
        super().forget_uploads(attempt)
        with suppress(StorageFailed), _asked():
            for some in obstore.list(self._store, f"uploads/{attempt}/"):
                obstore.delete(self._store, [item["path"] for item in some])

    def sweep(self) -> None:
        """Nothing half written is visible here; parts of a broken upload end by the bucket's own rule."""

    def names(self) -> set[str]:
        with _asked():
            listed = [item["path"] for some in obstore.list(self._store, "models/") for item in some]
        return {path.rpartition("/")[2] for path in listed}

    def probe(self) -> None:
        self._put("ready.probe", b"ready")

    def _put(self, key: str, data: bytes) -> None:
        with _asked(), step("blob.write"):
            obstore.put(self._store, key, data, use_multipart=False)

    def _keep(self, key: str, draft: Path) -> None:
        """Parts of five megabytes, a few at a time: memory does not grow with the file."""
        try:
            with open(draft, "rb") as file, _asked(), step("blob.write"):
                obstore.put(self._store, key, file, max_concurrency=2)
        except OSError as error:
            raise StorageFailed() from error
        finally:
            draft.unlink(missing_ok=True)

    def _get(self, key: str) -> memoryview:
        with _asked():
            return memoryview(obstore.get(self._store, key).bytes())

    def _open(self, key: str) -> BinaryIO:
        with _asked():
            size = obstore.head(self._store, key)["size"]
        return cast("BinaryIO", io.BufferedReader(_Object(self._store, key, size), PIECE))


class _Object(io.RawIOBase):
    """An object as a file to read and seek in, a range at a time."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with _asked():
            data = obstore.get_range(self._store, self._key, start=self._at, length=length)
        memoryview(buffer)[: len(data)] = memoryview(data)
        self._at += len(data)
        return len(data)
