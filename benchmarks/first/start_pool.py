"""Start a ProcessPoolExecutor; print the first result, then one of each worker; stop."""

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

from benchmarks.work import meet

if __name__ == "__main__":
    n = int(sys.argv[1])
    with ProcessPoolExecutor(max_workers=n) as executor:
        print("first", executor.submit(os.getpid).result(), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            print("all", *executor.map(meet, [folder] * n, [n] * n), flush=True)
