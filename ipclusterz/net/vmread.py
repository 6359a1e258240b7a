"""Reading the memory of another process of this user, where the system allows that.

Linux only (process_vm_readv(2)).  Where a security module allows it to parents alone
(Ubuntu's ``kernel.yama.ptrace_scope=1``), or in another container, it is refused.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_SIMPLE = 0  # PyBUF_SIMPLE: the address is all that is asked for


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


class _Vector(ctypes.Structure):
    """The system's iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_read: Any = None
if sys.platform.startswith("linux"):
    _read = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
if _read is not None:
    _vectors, _count = ctypes.POINTER(_Vector), ctypes.c_ulong
    _read.argtypes = (ctypes.c_int, _vectors, _count, _vectors, _count, _count)
    _read.restype = ctypes.c_ssize_t

able = _read is not None
"""Whether this system has such a call."""


def address(data: Any) -> int:
    """Return where in this process's memory a buffer lies; for as long as it is kept."""
    buffer = _Buffer()
    pointer = ctypes.byref(buffer)
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), pointer, _SIMPLE)
    try:
        return buffer.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(pointer)


def read(pid: int, wanted: list[tuple[int, memoryview]]) -> None:
    """Fill each room with what lies at its address in a process, all in one call.

    OSError where that is refused, the process has ended or not so much is there.
    """
    here, there = (_Vector * len(wanted))(), (_Vector * len(wanted))()
    for index, (base, room) in enumerate(wanted):
        here[index] = _Vector(address(room), len(room))
        there[index] = _Vector(base, len(room))
    got = _read(pid, here, len(wanted), there, len(wanted), 0)
    if got < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if got < sum(len(room) for _, room in wanted):
        raise OSError("there is less than was asked for")
