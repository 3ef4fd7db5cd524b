"""Opening the blobs by their address."""

from __future__ import annotations

from pathlib import Path

from aggregator.storage.blobs import Blobs, UnusableBlobs


def open_blobs(folder: Path, url: str) -> Blobs:
    """The blobs of an aggregator: in its folder, or in a bucket (``s3://…``) if there is a URL.

    Raises: UnusableBlobs.
    """
    if not url:
        return Blobs(folder)
    try:
        from aggregator.storage.bucket import BucketBlobs, open_store
    except ModuleNotFoundError as error:
        problem = "obstore is missing; install it with: pip install 'medveil[s3]'"
        raise UnusableBlobs(problem=problem) from error
    return BucketBlobs(folder, open_store(url))
