"""Start an ipclusterz cluster; print the first result, then one of each engine; stop."""

import os
import sys

import ipclusterz as ipp

if __name__ == "__main__":
    with ipp.Cluster(n=int(sys.argv[1])) as rc:
        print("first", rc.load_balanced_view().apply_sync(os.getpid), flush=True)
        print("all", *rc[:].apply_sync(os.getpid), flush=True)
