"""Start loky's executor; print the first result, then one of each worker; stop."""

import os
import sys
import tempfile

from loky import get_reusable_executor  # type: ignore[import-not-found]

from benchmarks.work import meet

if __name__ == "__main__":
    n = int(sys.argv[1])
    with get_reusable_executor(max_workers=n) as executor:
        print("first", executor.submit(os.getpid).result(), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            print("all", *executor.map(meet, [folder] * n, [n] * n), flush=True)
