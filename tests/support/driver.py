"""A program that saves by many workers; tests stop it."""

import json
import sys

import ray

import layertap.distributed
from tests.support import faulty_data


def main():
    """Saves as a line of JSON describes."""
    job = json.loads(sys.argv[1])
    if job["address"] is None:
        options = {"num_cpus": 3, "include_dashboard": False}
    else:
        options = {}
    ray.init(job["address"] or "local", log_to_driver=False, **options)
    print("ready", flush=True)
    try:
        layertap.distributed.save(
            faulty_data.model(),
            faulty_data.Faulty(job["folder"]),
            job["path"],
            workers=job["workers"],
            **faulty_data.OPTIONS,
        )
    finally:
        print("imported:", sorted({"tensorflow", "torch"} & set(sys.modules)))


if __name__ == "__main__":
    main()
