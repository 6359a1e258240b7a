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
_MEANWHILE = {
    "mpi": "'ipcontrollerz' (with --ip=ADDRESS if other hosts shall come), then '{mode} {n}"
    "ipenginez'",
    "ssh": "'ipcontrollerz --ip=ADDRESS', then 'ipenginez {n}--file=FILE' on each host",
}
_NEEDLESS = ("--mpi",)  # the launcher has MPI initialised in each engine by itself


def todays_words(words: Sequence[str]) -> list[str]:
    """Return the arguments for what ``ipclusterz MODE ...`` asked for; the mode comes first."""
    mode, *rest = words
    return ["start", f"--engines={LAUNCHERS[mode]}", *_options(rest)]


def todays_form(words: Sequence[str]) -> str:
    """Return the same as a command line."""
    return " ".join(["ipclusterz", *(quote(word) for word in todays_words(words))])


def answer(words: Sequence[str]) -> str:
    """Return what to tell somebody who typed a mode as a subcommand."""
    mode = words[0]
    launcher = LAUNCHERS[mode]
    meanwhile = _MEANWHILE[launcher].format(mode=mode, n=_number(words))
    return (
        f"ipclusterz {mode}: starting engines by {launcher} is not in this version yet"
        f" (it will be: {todays_form(words)}).\n"
        f"Until then: {meanwhile}."
    )


def _number(words: Sequence[str]) -> str:
    """Return ``-n`` and its number as they were given, with a space behind; '' without."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        said = following if word == "-n" else word.removeprefix("-n").lstrip("=")
        if word.startswith("-n") and said.isdigit():
            return f"-n {said} "
    return ""


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
