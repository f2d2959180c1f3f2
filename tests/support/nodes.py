"""A program that saves on two nodes, and loses one."""

import os
import signal
import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

import layertap.distributed
from tests.support import faulty_data as faulty

# Ray notices the loss of a node in a second, not in ten.
SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}


def lose(cluster, node, data, lost):
    """Kills all processes of a node, once each worker has work."""
    raylet = node.all_processes["raylet"][0].process.pid
    try:
        faulty.until(lambda: len(data.waiting()) == 3)
        lost.update(process for process in data.waiting() if parent(process) == raylet)
        for process in [raylet, *lost]:
            os.kill(process, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
    finally:
        (data.folder / "held").unlink()


def parent(process):
    """Returns the parent of a process; None if the process has ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(status.rpartition(")")[2].split()[1])


def main(path, folder):
    """Saves the data of a folder, and prints the lost workers."""
    data = faulty.HeldAtStart(folder)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "_system_config": SOON,
        },
    )
    node = cluster.add_node(num_cpus=2)
    ray.init(cluster.address, log_to_driver=False)
    lost = set()
    killer = threading.Thread(target=lose, args=(cluster, node, data, lost))
    killer.start()
    layertap.distributed.save(
        faulty.model(),
        data,
        path,
        workers=3,
        **faulty.OPTIONS,
    )
    killer.join()
    print("lost", *lost, flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
