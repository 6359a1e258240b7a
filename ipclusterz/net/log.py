"""Logs: one file per process, rotated; standard error where no folder was given."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from typing import Any

BYTES = 5 * 1024 * 1024
KEPT = 3
FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"


class _File(logging.handlers.RotatingFileHandler):
    """A file for its owner's eyes; a full disk is said once, and when there is room again."""

    _lost = 0

    def _open(self) -> Any:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_CLOEXEC, 0o600)

        return open(
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            errors=self.errors,
            opener=private,
        )

    def emit(self, record: logging.LogRecord) -> None:
        lost = self._lost
        super().emit(record)
        if lost and self._lost == lost:
            self._lost = 0
            note = logging.makeLogRecord(
                {
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": f"{lost} lines before this one could not be written",
                }
            )
            super().emit(note)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        self._lost += 1
        if self._lost == 1:
            what = error.strerror if isinstance(error, OSError) else repr(error)
            text = f"cannot write the log {self.baseFilename}: {what}; the work goes on\n"
            try:
                sys.stderr.write(text + self.format(record) + "\n")
                sys.stderr.flush()
            except OSError:
                pass  # that is on the same disk


def open_log(folder: str, name: str, level: str = "INFO") -> logging.Logger:
    """Return the logger of this process, writing to ``folder/name.log``.

    A folder that cannot be written does not stop the process: it is said on standard error
    once, and logging goes there.
    """
    logger = logging.getLogger(f"ipclusterz.{name}")
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
    handler: logging.Handler | None = None
    problem = ""
    if folder:
        path = os.path.join(folder, f"{name}.log")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            handler = _File(
                path, maxBytes=BYTES, backupCount=KEPT, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            problem = f"cannot write the log {path}: {error.strerror}; logging here instead"
    handler = handler or logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)
    if problem:
        logger.warning(problem)
    return logger
