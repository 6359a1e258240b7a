"""The modes that were subcommands once, and what their users type today.

``ipclusterz mpiexec -n 4`` and its kin stand in old documents and scripts; what was a mode is
a launcher now, and they mean ``ipclusterz start --engines=mpi -n 4``.  Pure: words in, words
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipclusterz.files import quote

LAUNCHERS = {"mpiexec": "mpi", "mpirun": "mpi", "pbs": "pbs", "ssh": "ssh"}
"""The launcher that each mode has become."""

_RENAMED = {"--pbs-script": "--batch-template"}
_NEEDLESS = ("--mpi",)  # the launcher has MPI initialised in each engine by itself


def todays_words(words: Sequence[str]) -> list[str]:
    """Return the arguments for what ``ipclusterz MODE ...`` asked for; the mode comes first."""
    mode, *rest = words
    command = ["--mpi-cmd=mpirun"] if mode == "mpirun" else []
    return ["start", f"--engines={LAUNCHERS[mode]}", *command, *_options(rest)]


def todays_form(words: Sequence[str]) -> str:
    """Return the same as a command line."""
    return " ".join(["ipclusterz", *(quote(word) for word in todays_words(words))])


def _options(words: Sequence[str]) -> Iterator[str]:
    """Yield the options as they are spelled today."""
    waiting = iter(words)
    for word in waiting:
        name, has_value, value = word.partition("=")
        if name not in _RENAMED and name not in _NEEDLESS:
            yield word
            continue
        value = value if has_value else next(waiting, "")
        if name in _NEEDLESS and value.startswith("-"):
            yield value  # it was a flag, and this is the next one
        if name in _RENAMED:
            yield f"{_RENAMED[name]}={value}"
