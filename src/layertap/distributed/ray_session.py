"""All uses of Ray by the driver: starts it, and runs workers that write blocks."""

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import keras

from layertap.core.optional import require
from layertap.distributed.retries import start_counting
from layertap.distributed.worker import Assignment, Worker
from layertap.errors import OptionError, check_number

# Seconds in which a cluster has to answer: Ray itself waits for more than a minute.
_ANSWERS_WITHIN = 10
# The beginning of any connection of gRPC, which clusters answer.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def start_ray(num_gpus: float) -> Any:
    """Returns Ray, and starts it if it is not running."""
    ray = _import_ray()
    if not ray.is_initialized():
        _start(ray, None)
    gpus = ray.cluster_resources().get("GPU", 0)
    # A cluster may grow. One machine doesn't.
    if gpus < num_gpus and len(ray.nodes()) == 1:
        raise OptionError(
            f"num_gpus={num_gpus:g} is more than this machine has. Expected at most "
            f"{gpus:g}. Pass num_gpus=0, or add a node with GPUs to the cluster first."
        )
    return ray


@contextmanager
def connection(address: str) -> Iterator[None]:
    """Connects to an address, by default `RAY_ADDRESS`, or starts Ray here."""
    ray = _import_ray()
    try:
        _start(ray, address or None)
    except ConnectionError as error:
        raise OptionError(f"There is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    with warnings.catch_warnings():
        # Of Ray about its own settings.
        warnings.simplefilter("ignore", DeprecationWarning)
        require("ray.data", "ray", "A distributed save").DataContext.get_current()
        return require("ray", "ray", "A distributed save")


def _start(ray: Any, address: str | None) -> None:
    with warnings.catch_warnings():
        # JAX warns of each process that is started from one with threads.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        if address is None and "RAY_ADDRESS" not in os.environ:
            # Not a cluster that another user runs on this machine.
            address = "local"
        else:
            check_answers(address or os.environ["RAY_ADDRESS"])
        # No page is needed, and workers return their errors.
        local = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, logging_level="ERROR", log_to_driver=False, **local)


def check_answers(address: str) -> None:
    """Raises OptionError if no cluster answers at a `HOST:PORT`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        # One of Ray's own words, such as "auto".
        return
    where = host.strip("[]"), int(port)
    try:
        if where[1] >= 2**16:
            # It would be cut to 16 bits: the port of another server.
            raise OverflowError("ports are below 65,536")
        with socket.create_connection(where, _ANSWERS_WITHIN) as connection:
            if "RAY_USE_TLS" in os.environ:
                return
            connection.sendall(_PREFACE)
            if not connection.recv(1):
                raise ConnectionError("the connection was closed")
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"No Ray cluster answers ({reason}). Expected the HOST:PORT of a cluster. "
            f"Received {address!r}. Start the cluster, or correct the address or "
            "RAY_ADDRESS."
        ) from error


def plan_resources(
    ray: Any, workers: int | None, num_cpus: float, num_gpus: float
) -> tuple[int, dict[str, float]]:
    """Returns how many workers there are, by default on all nodes; what each needs."""
    if workers is None:
        kind, amount = ("GPU", num_gpus) if num_gpus else ("CPU", num_cpus)
        workers = max(int(ray.cluster_resources().get(kind, 0) / amount), 1)
    check_number("`workers`", workers, 1)
    # Ray accepts one of them.
    return workers, {"num_gpus": num_gpus} if num_gpus else {"num_cpus": num_cpus}


def write_blocks(
    ray: Any, blocks: Sequence[int], assignment: Assignment, each: Mapping[str, float]
) -> Generator[tuple[int, int]]:
    """Has workers write blocks, and yields the rows and the bytes of each one.

    An error of a worker is raised as it was there.
    """
    if not blocks:
        return
    workers = min(assignment.workers, len(blocks))
    # In memory from the start: reading tasks would wait for CPUs that workers hold.
    numbers = ray.data.from_items(
        [{"block": block} for block in blocks], override_num_blocks=len(blocks)
    )
    numbers.context.enable_progress_bars = False
    numbers.context.print_on_execution_start = False
    results = numbers.map_batches(
        Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            # All at once; but it runs with those that find resources.
            min_size=1,
            max_size=workers,
            initial_size=workers,
            # The next block is there when one is written, and no more wait behind it.
            max_tasks_in_flight_per_actor=2,
        ),
        **each,
        # In a list, it stays a reference: a worker first needs to know the backend.
        fn_constructor_args=[
            keras.config.backend(),
            [ray.put(assignment), start_counting(ray)],
        ],
    )
    with _quiet(), closing(iter(results.iter_rows())) as rows:
        for row in rows:
            if row["error"]:
                raise pickle.loads(row["error"])
            yield row["rows"], row["bytes"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Limits Ray's log of a run to problems, since there is a progress bar."""
    levels = {
        "ray.data": logging.WARNING,
        # It warns that its own bars are off, and that the pool can't grow further.
        "ray.data._internal.progress": logging.ERROR,
        "ray.data._internal.actor_autoscaler": logging.ERROR,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
