"""The modes that were subcommands once, and what their users type today.

``ipclusterz mpiexec -n 4`` and its kin stand in old documents and scripts; what was a mode is
a launcher now, ``ipclusterz start --engines=mpi -n 4``.  Pure: words in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipclusterz.files import quote

LAUNCHERS = {"mpiexec": "mpi", "mpirun": "mpi", "pbs": "pbs", "ssh": "ssh"}
"""The launcher that each mode has become."""

_RENAMED = {"--pbs-script": "--batch-template"}
_NEEDLESS = ("--mpi",)  # the launcher has MPI initialised in each engine by itself


def todays_form(words: Sequence[str]) -> str:
    """Return the command for what ``ipclusterz MODE ...`` asked for; the mode comes first."""
    mode, *rest = words
    said = " ".join(quote(word) for word in _options(rest))
    return f"ipclusterz start --engines={LAUNCHERS[mode]} {said}".rstrip()


def answer(words: Sequence[str]) -> str:
    """Return what to tell somebody who typed a mode as a subcommand."""
    mode = words[0]
    return (
        f"ipclusterz {mode}: starting engines by {LAUNCHERS[mode]} is not in this version yet"
        f" (it will be: {todays_form(words)}).\n"
        "Until then: 'ipcontrollerz' on one host, 'ipenginez --file=FILE' on the others."
    )


def _options(words: Sequence[str]) -> Iterator[str]:
    """Yield the options as they are spelled today."""
    waiting = iter(words)
    for word in waiting:
        name, has_value, value = word.partition("=")
        if name not in _RENAMED and name not in _NEEDLESS:
            yield word
            continue
        value = value if has_value else next(waiting, "")
        if name in _RENAMED:
            yield f"{_RENAMED[name]}={value}"
