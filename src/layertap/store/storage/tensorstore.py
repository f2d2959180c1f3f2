"""Opens buckets by TensorStore, as the environment says."""

import json
import os
from functools import cache
from typing import Any

from layertap.core.optional import require
from layertap.errors import OptionError, StoreError

# By scheme, how TensorStore calls it.
SCHEMES = {"s3": "s3", "gs": "gcs"}

# What TensorStore asks for anew is asked for so often, with these delays between: for
# about a minute in all. Of itself it goes on for a quarter of an hour.
_ATTEMPTS = 9
_DELAYS = {"initial_delay": "250ms", "max_delay": "16s"}
# Of itself it waits for ever for who does not answer.
_PATIENCE = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

# The process that TensorStore has threads in, once it was used.
_threads: dict[str, int] = {}


def check_not_forked() -> None:
    """Raises where TensorStore would end the process, whose threads the parent has.

    Raises:
        StoreError: If it was used in the process that this one was forked from.
    """
    if _threads.get("process", os.getpid()) != os.getpid():
        raise StoreError(
            "This process was forked from one that had used a store at s3:// or gs://, "
            "and TensorStore does not work in such a process. Start workers by "
            'spawning: multiprocessing_context="spawn" of a DataLoader, or '
            'multiprocessing.get_context("spawn").'
        )


@cache
def tensorstore() -> Any:
    """Returns TensorStore, for object stores, and for Zarr as data."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    return require("tensorstore", "cloud", "An object store or Zarr data")


def opened(scheme: str, bucket: str) -> Any:
    """Opens a bucket as the environment says now, anew if that has changed."""
    keys = tuple(os.environ.get(name) for name in _CREDENTIALS)
    spec = described(scheme, bucket)
    return _opened_as(json.dumps(spec), hash(keys))


def described(scheme: str, bucket: str) -> dict[str, Any]:
    """Returns what TensorStore opens a bucket with, as the environment says now.

    Args:
        scheme: One of `SCHEMES`.
        bucket: The name of the bucket.

    Raises:
        OptionError: If the environment says what makes no sense.
    """
    return _s3(bucket) if scheme == "s3" else _gcs(bucket)


@cache
def _opened_as(spec: str, credentials: int) -> Any:
    found = json.loads(spec)
    _threads["process"] = os.getpid()
    try:
        return tensorstore().KvStore.open(found).result()
    except ValueError as error:
        raise StoreError(
            f"The bucket {found['bucket']!r} can't be opened: {said_by(error)}. "
            "Check its name, the credentials, and where AWS_ENDPOINT_URL leads."
        ) from error


def _gcs(bucket: str) -> dict[str, Any]:
    retries = {"max_retries": _ATTEMPTS, **_DELAYS}
    return {"driver": "gcs", "bucket": bucket, "gcs_request_retries": retries}


def _s3(bucket: str) -> dict[str, Any]:
    """Returns what TensorStore opens a bucket of S3 with.

    It has no variables of its own for this; the names are those of AWS' tools.
    """
    get = os.environ.get
    attempts = get("AWS_MAX_ATTEMPTS", str(_ATTEMPTS))
    if not attempts.isdecimal() or not int(attempts):
        raise OptionError(
            "AWS_MAX_ATTEMPTS is how often a request is tried, from 1 on; found "
            f"{attempts[:200]!r}. Set it to a number, or not at all."
        )
    spec: dict[str, Any] = {
        "driver": "s3",
        "bucket": bucket,
        "use_conditional_write": True,
        "s3_request_retries": {"max_retries": int(attempts), **_DELAYS},
    }
    endpoint = get("AWS_ENDPOINT_URL_S3") or get("AWS_ENDPOINT_URL")
    if endpoint:
        spec["endpoint"] = endpoint.rstrip("/")
    region = get("AWS_REGION") or get("AWS_DEFAULT_REGION")
    if region:
        spec["aws_region"] = region
    if get("AWS_ACCESS_KEY_ID"):
        # The first that is asked anyway; to ask all logs what others lack.
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def said_by(error: ValueError) -> str:
    """Returns what TensorStore said, without where in its code that was."""
    text = " ".join(str(error).split())
    return text.partition(" [")[0][:300].removesuffix(".")
