"""Start Ray on this machine; print the first result, then one of each worker; stop."""

import logging
import sys
import tempfile

import ray  # type: ignore[import-not-found]

from benchmarks.work import meet, own_pid

if __name__ == "__main__":
    n = int(sys.argv[1])
    ray.init(
        num_cpus=n, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
    )
    print("first", ray.get(ray.remote(own_pid).remote()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        together = ray.remote(meet)
        print("all", *ray.get([together.remote(folder, n) for _ in range(n)]), flush=True)
    ray.shutdown()
