"""Opens buckets with TensorStore, as the environment configures them."""

import json
import os
from functools import cache
from typing import Any

from layertap.core.optional import require
from layertap.errors import OptionError, StoreError

SCHEMES = ("s3", "gs")

# How often a request is tried, and with which delays: for about a minute in all. By
# default, TensorStore tries for a quarter of an hour.
_ATTEMPTS = 9
_DELAYS = {"initial_delay": "250ms", "max_delay": "16s"}
# By default, TensorStore waits for an answer without a limit.
_PATIENCE = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

# The process that TensorStore has threads in, once it was used.
_threads: dict[str, int] = {}


def check_not_forked() -> None:
    """Raises StoreError in a forked process, where TensorStore lacks its threads."""
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


def in_bucket(location: str) -> bool:
    """Whether this is the URL of a bucket, or of something in it."""
    return location.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def open_bucket(scheme: str, bucket: str) -> Any:
    """Opens a bucket with the environment of now, again if that has changed."""
    keys = tuple(os.environ.get(name) for name in _CREDENTIALS)
    spec = bucket_spec(scheme, bucket)
    return _open_spec(json.dumps(spec), hash(keys))


@cache
def _open_spec(spec: str, credentials: int) -> Any:
    parsed = json.loads(spec)
    _threads["process"] = os.getpid()
    try:
        return tensorstore().KvStore.open(parsed).result()
    except ValueError as error:
        raise StoreError(
            f"The bucket {parsed['bucket']!r} can't be opened: {message_of(error)}. "
            "Check its name, the credentials, and where AWS_ENDPOINT_URL leads."
        ) from error


def bucket_spec(scheme: str, bucket: str) -> dict[str, Any]:
    """Returns the specification of a bucket for TensorStore, from the environment."""
    if scheme == "gs":
        retries = {"max_retries": _ATTEMPTS, **_DELAYS}
        return {"driver": "gcs", "bucket": bucket, "gcs_request_retries": retries}
    # TensorStore has no variables of its own for S3; these are those of AWS' tools.
    get = os.environ.get
    attempts = get("AWS_MAX_ATTEMPTS", str(_ATTEMPTS))
    if not attempts.isdecimal() or not int(attempts):
        raise OptionError(
            "AWS_MAX_ATTEMPTS is not a number of attempts. Expected 1 or more. "
            f"Received {attempts[:200]!r}. Correct it, or unset it."
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
        # The first source anyway; with all sources, the log names those that fail.
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def message_of(error: ValueError) -> str:
    """Returns the message of TensorStore, without places in its source code."""
    text = " ".join(str(error).split())
    return text.partition(" [")[0][:300].removesuffix(".")
