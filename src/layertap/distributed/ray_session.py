"""All that is asked of Ray: to be there, and to have blocks written by workers."""

import logging
import os
import pickle
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import keras

from layertap.core.optional import require
from layertap.distributed.retries import counted
from layertap.distributed.worker import Assignment, Worker
from layertap.errors import OptionError


def started(num_gpus: float) -> Any:
    """Returns Ray, and starts it if need be.

    Raises:
        BackendMissingError: If it is not installed.
        OptionError: If it is one machine, which has no such GPUs.
    """
    ray = _ray()
    if not ray.is_initialized():
        _start(ray, None)
    gpus = ray.cluster_resources().get("GPU", 0)
    # A cluster may grow. One machine doesn't.
    if gpus < num_gpus and len(ray.nodes()) == 1:
        raise OptionError(
            f"num_gpus={num_gpus:g}: this machine has {gpus:g}. Pass num_gpus=0, or "
            "have a node with GPUs in the cluster first."
        )
    return ray


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Has Ray for a while, as the command line does.

    Args:
        address: Of a cluster. If empty, the one that `RAY_ADDRESS` names, or else this
            machine, on which Ray is started.

    Raises:
        BackendMissingError: If Ray is not installed.
        OptionError: If there is no cluster at the address.
    """
    ray = _ray()
    try:
        _start(ray, address or None)
    except ConnectionError as error:
        raise OptionError(f"There is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    with warnings.catch_warnings():
        # On its own settings.
        warnings.simplefilter("ignore", DeprecationWarning)
        require("ray.data", "ray", "A distributed save").DataContext.get_current()
        return require("ray", "ray", "A distributed save")


def _start(ray: Any, address: str | None) -> None:
    with warnings.catch_warnings():
        # JAX warns of each process that is started beside its threads.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        if address is None and "RAY_ADDRESS" not in os.environ:
            # Not one that somebody else has running here.
            address = "local"
        # Nobody needs its page, and what goes wrong in workers comes back.
        local = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, logging_level="ERROR", log_to_driver=False, **local)


def count(ray: Any, workers: int | None, num_cpus: float, num_gpus: float) -> int:
    """Returns how many workers there are to be.

    Raises:
        OptionError: If that is no number of them.
    """
    if workers is None:
        there = ray.cluster_resources()
        kind, each = ("GPU", num_gpus) if num_gpus else ("CPU", num_cpus)
        return max(int(there.get(kind, 0) / each), 1)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(
            f"`workers` is a number of them, at least 1; found {workers}."
        )
    return workers


def written(
    ray: Any,
    blocks: Sequence[int],
    assignment: Assignment,
    workers: int,
    *,
    num_cpus: float,
    num_gpus: float,
) -> Generator[tuple[int, int]]:
    """Has blocks written.

    Args:
        ray: Ray.
        blocks: Their numbers.
        assignment: What the workers need.
        workers: How many there are.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each, in their place.

    Yields:
        The rows and the bytes of each block that was written, as they come.

    Raises:
        Exception: What went wrong in a worker, as it was there.
    """
    if not blocks:
        return
    most = min(workers, len(blocks))
    # In memory at once: what reads them would wait for a CPU that workers have.
    numbers = ray.data.from_items(
        [{"block": block} for block in blocks], override_num_blocks=len(blocks)
    )
    numbers.context.enable_progress_bars = False
    numbers.context.print_on_execution_start = False
    found = numbers.map_batches(
        Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            # All at once, but it goes on with those that there is room for.
            min_size=1,
            max_size=most,
            initial_size=most,
            # The next one is there when one is written, and no more wait behind it.
            max_tasks_in_flight_per_actor=2,
        ),
        # Ray takes one of them.
        **({"num_gpus": num_gpus} if num_gpus else {"num_cpus": num_cpus}),
        # In a list, Ray leaves it a reference: the backend is to be known first.
        fn_constructor_args=[
            keras.config.backend(),
            [ray.put(assignment), counted(ray)],
        ],
    )
    with _quiet(), closing(iter(found.iter_rows())) as rows:
        for row in rows:
            if row["error"]:
                raise pickle.loads(row["error"])
            yield row["rows"], row["bytes"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray's log of each run to what is wrong: there is a progress bar."""
    levels = {
        "ray.data": logging.WARNING,
        # That its own are off; and that there won't be more workers than all.
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
