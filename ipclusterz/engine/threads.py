"""More threads for libraries that were preloaded with one.

In a zygote libraries are told to start one thread only, since a process with threads must not
be forked; some of them start theirs when they are imported.  An engine that may use more tells
those that are loaded already.  Knows their functions by name; a library that has none of these
stays as it is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

_LIBRARY = re.compile(r"/[^/]*(openblas|gomp|iomp|libomp|mkl_rt|blis)[^/]*\.so[^/]*$")
_FUNCTIONS = (
    ("OPENBLAS_NUM_THREADS", "scipy_openblas_set_num_threads64_"),
    ("OPENBLAS_NUM_THREADS", "scipy_openblas_set_num_threads"),
    ("OPENBLAS_NUM_THREADS", "openblas_set_num_threads64_"),
    ("OPENBLAS_NUM_THREADS", "openblas_set_num_threads"),
    ("MKL_NUM_THREADS", "MKL_Set_Num_Threads"),
    ("BLIS_NUM_THREADS", "bli_thread_set_num_threads"),
    ("OMP_NUM_THREADS", "omp_set_num_threads"),
)


def raise_threads(environ: Mapping[str, str]) -> None:
    """Tell libraries that are loaded what these variables say, where it is more than one."""
    wanted = {name: _number(environ.get(name, "")) for name, _ in _FUNCTIONS}
    if max(wanted.values()) < 2:
        return
    import ctypes

    for path in _loaded():
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
        for variable, name in _FUNCTIONS:
            if wanted[variable] > 1 and hasattr(library, name):
                getattr(library, name)(ctypes.c_int(wanted[variable]))
                break
    numexpr, number = (
        sys.modules.get("numexpr"),
        _number(environ.get("NUMEXPR_NUM_THREADS", "")),
    )
    if numexpr is not None and number > 1:
        try:
            numexpr.set_num_threads(number)
        except Exception:  # it has a limit of its own
            pass


def _loaded() -> list[str]:
    """Return the paths of libraries in this process that start threads."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            paths = {line.rstrip("\n").partition("/")[2] for line in file}
    except OSError:
        return []
    return sorted(f"/{path}" for path in paths if _LIBRARY.search(f"/{path}"))


def _number(said: str) -> int:
    first = said.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 1
