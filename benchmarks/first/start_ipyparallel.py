"""Start an ipyparallel cluster; print the first result, then one of each engine; stop."""

import logging
import os
import sys

import ipyparallel as ipp  # type: ignore[import-not-found]

if __name__ == "__main__":
    with ipp.Cluster(n=int(sys.argv[1]), log_level=logging.WARNING) as rc:
        print("first", rc.load_balanced_view().apply_sync(os.getpid), flush=True)
        print("all", *rc[:].apply_sync(os.getpid), flush=True)
