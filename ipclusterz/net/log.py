"""Logs: one file per process, rotated; standard error where no folder was given."""

from __future__ import annotations

import logging
import logging.handlers
import os

BYTES = 5 * 1024 * 1024
KEPT = 3
FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"


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
            handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=BYTES, backupCount=KEPT, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            problem = f"cannot write the log {path}: {error.strerror}; logging here instead"
    handler = handler or logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logging.raiseExceptions = False
    if problem:
        logger.warning(problem)
    return logger
