"""An S3 server in this process (moto), for tests of blobs in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "canary-secret",
    "AWS_REGION": "us-east-1",
}
BUCKET = "consortium"


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an empty bucket, as ``blobs`` in the settings takes it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        bucket_of_moto()
        host, port = server.get_host_and_port()
        yield f"s3://{BUCKET}/some/prefix?endpoint=http://{host}:{port}&region=us-east-1"
    finally:
        server.stop()


def bucket_of_moto() -> Any:
    """The bucket as the server holds it: ``keys`` and unfinished ``multiparts``."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    if BUCKET not in backend.buckets:
        backend.create_bucket(BUCKET, "us-east-1")
    return backend.buckets[BUCKET]
