"""Start a LocalCluster of dask; print the first result, then one of each worker; stop."""

import logging
import os
import sys

from distributed import Client, LocalCluster

if __name__ == "__main__":
    n = int(sys.argv[1])
    with (
        LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        print("first", client.submit(os.getpid).result(), flush=True)
        client.wait_for_workers(n)
        print("all", *client.run(os.getpid).values(), flush=True)
