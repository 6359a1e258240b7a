"""What users say of hosts: which ones, how many engines each, and how those are started.

Read are a dict as in a config file, ``node1:4,node[02-05]:8`` as on a command line, the text
of a hostfile (MPI's, or what ``$PBS_NODEFILE`` names) and that of an old clusterfile.  Pure:
text and values in, :class:`Host` out, LaunchError with what is wrong and where.

A host's name becomes part of a command line one day, so each is checked here, once, against
the pattern of :mod:`ipclusterz.core.ssh`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from ipclusterz.core.ssh import destination
from ipclusterz.error import LaunchError

MOST_HOSTS = 100_000
"""A range that makes more hosts than this is a slip of the finger."""

SETTINGS = ("n", "python", "setup", "cwd", "env", "args")
"""What may be said of one host in a dict."""

_COUNTED = re.compile(r"(?P<host>.*?):(?P<n>\d+)\Z")
_RANGE = re.compile(r"\[([^\]:]*)\]")
_SPAN = re.compile(r"(\d+)(?:-(\d+))?\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Host(Struct, frozen=True):
    """One host: ``[user@]host[:port]``, its ``n`` engines (0: not said), and how they start.

    ``python`` is the interpreter there, ``setup`` lines for the shell before it, ``cwd`` the
    working folder, ``env`` what engines have in their environment, ``args`` options of
    ``ipenginez``.  Empty ones leave the choice to what holds for all hosts.
    """

    target: str
    n: int = 0
    python: str = ""
    setup: str = ""
    cwd: str = ""
    env: Mapping[str, str] = {}
    args: tuple[str, ...] = ()


class ClusterFile(Struct, frozen=True):
    """An old clusterfile: its hosts, and remarks on what means nothing any more."""

    hosts: tuple[Host, ...]
    notes: tuple[str, ...] = ()


def from_dict(engines: Mapping[Any, Any], origin: str) -> list[Host]:
    """Read ``{'node1': 4, 'user@node2:2222': {'n': 8, 'python': ...}, 'node[3-5]': (2, [])}``.

    A number behind a colon is a port here, for the engines are counted by the value.
    """
    found: list[Host] = []
    for name, value in engines.items():
        if not isinstance(name, str):
            _wrong(origin, f"{name!r}", "a host's name is text")
        host = _described(value, f"{origin}[{name!r}]")
        found += [replace(host, target=target) for target in expand(name, origin)]
    return merged(found)


def from_line(text: str, origin: str) -> list[Host]:
    """Read ``node1:4,user@node2:2222:8,node[03-05]``.

    One number behind the name counts engines; of two the first is the port.
    """
    found: list[Host] = []
    for word in _split(text):
        if not word:
            _wrong(origin, repr(text), "there is a comma too many")
        found += _counted(word, origin)
    return merged(found)


def from_hostfile(text: str, origin: str) -> list[Host]:
    """Read a hostfile: ``node1``, ``node1:4`` or ``node1 slots=4`` a line, ``#`` comments.

    Repeated lines add up, each is one engine when it says no number: so
    ``$PBS_NODEFILE`` names a host once for each of its slots.
    """
    found: list[Host] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"line {number} of {origin}"
        hosts = _counted(words[0], place)
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key == "slots" and value.isdigit():
                hosts = [replace(host, n=int(value)) for host in hosts]
            elif "=" not in word:
                _wrong(place, repr(word), "behind the host only slots=NUMBER is understood")
        found += hosts
    if not found:
        raise LaunchError(f"{origin} names no host")
    return merged(found)


def from_clusterfile(text: str, origin: str) -> ClusterFile:
    """Read an old clusterfile: a Python file with ``engines = {'host': 4, ...}``.

    It is read, never run: values made of numbers, text, lists and dicts, and of names given
    before, are understood; LaunchError names the line of anything else.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise LaunchError(
            f"{origin} is no Python file: {getattr(error, 'msg', error)}"
            + (f" (line {line})" if line else "")
        ) from None
    known: dict[str, Any] = {}
    for statement in tree.body:
        for name, value in _assigned(statement, known, origin):
            known[name] = value
    engines = known.pop("engines", None)
    if not isinstance(engines, dict) or not engines:
        raise LaunchError(
            f"{origin} has no 'engines': write engines = {{'host1': 2, 'host2': 4}}"
        )
    notes = []
    if "send_furl" in known:
        notes.append(
            f"send_furl in {origin} means nothing any more: what engines need travels through"
            " the SSH connection and is not written to a file there"
        )
    return ClusterFile(tuple(from_dict(engines, f"engines in {origin}")), tuple(notes))


def expand(text: str, origin: str) -> list[str]:
    """Return the hosts of ``node[01-03,7]``: node01, node02, node03 and node7, checked."""
    pieces: list[list[str]] = []
    end = 0
    # A bracket at the beginning that holds colons is an IPv6 address, and stays.
    for match in _RANGE.finditer(text):
        pieces += [[text[end : match.start()]], _spans(match[1], text, origin)]
        end = match.end()
    pieces.append([text[end:]])
    count = 1
    for piece in pieces:
        count *= len(piece)
    if count > MOST_HOSTS:
        _wrong(origin, repr(text), f"that is {count} hosts, more than {MOST_HOSTS}")
    return [_checked("".join(parts), origin) for parts in product(*pieces)]


def merged(hosts: Iterable[Host]) -> list[Host]:
    """Return hosts with those that were named repeatedly as one; their numbers add up."""
    found: dict[Any, Host] = {}
    for host in hosts:
        settings = host.python, host.setup, host.cwd, tuple(host.env.items()), host.args
        key = host.target, settings
        if key in found:  # named again: one that said no number is one engine each time
            host = replace(host, n=(found[key].n or 1) + (host.n or 1))
        found[key] = host
    return list(found.values())


def total(hosts: Iterable[Host]) -> int:
    """Return how many engines hosts have; one where none is said."""
    return sum(host.n or 1 for host in hosts)


def placed(hosts: list[Host], n: int) -> list[Host]:
    """Return where ``n`` engines go: hosts in their order, each as many as it may have.

    Where no host says a number they get the same number each, the first ones one more.
    LaunchError when more are asked for than hosts were said to have.
    """
    if n > total(hosts) and not any(host.n for host in hosts):
        share, more = divmod(n, len(hosts))
        return [replace(h, n=share + (i < more)) for i, h in enumerate(hosts)]
    if n > total(hosts):
        raise LaunchError(
            f"{n} engines are asked for, but the hosts have {total(hosts)} together: give them"
            " higher numbers, or none at all to have them shared out evenly"
        )
    found = []
    for host in hosts:
        here = min(host.n or 1, n)
        if here:
            found.append(replace(host, n=here))
        n -= here
    return found


# -- pieces ------------------------------------------------------------------------------


def _counted(word: str, origin: str) -> list[Host]:
    """Return the hosts of ``name``, ``name:ENGINES`` or ``name:PORT:ENGINES``."""
    match = _COUNTED.match(word) if not word.endswith("]") else None
    if match is None:
        return [Host(target) for target in expand(word, origin)]
    n = int(match["n"])
    if n < 1:
        _wrong(origin, repr(word), "at least one engine, or leave the host out")
    return [Host(target, n) for target in expand(match["host"], origin)]


def _described(value: Any, place: str) -> Host:
    """Return what the value of one host in a dict says; its name comes later."""
    if isinstance(value, Mapping):
        return _of_settings(value, place)
    if isinstance(value, tuple | list):
        if len(value) != 2 or not isinstance(value[1], tuple | list):
            _wrong(place, repr(value), "write (number, [options])")
        return Host("", _number(value[0], place), args=_texts(value[1], place))
    return Host("", _number(value, place))


def _of_settings(value: Mapping[Any, Any], place: str) -> Host:
    for key in value:
        if key not in SETTINGS:
            _wrong(place, repr(key), f"there are {', '.join(SETTINGS)}")
    for key in ("python", "cwd"):
        if not isinstance(value.get(key, ""), str):
            _wrong(f"{place}[{key!r}]", repr(value[key]), "it must be text")
    setup = value.get("setup", "")
    if not isinstance(setup, str):
        setup = "\n".join(_texts(setup, f"{place}['setup']"))
    env = value.get("env", {})
    if not isinstance(env, Mapping):
        _wrong(f"{place}['env']", repr(env), "it must be a dict of names and texts")
    for key, text in env.items():
        if not isinstance(key, str) or not _NAME.match(key) or not isinstance(text, str):
            _wrong(f"{place}['env']", f"{key!r}: {text!r}", "names and values are text")
    return Host(
        "",
        _number(value["n"], place) if "n" in value else 0,
        value.get("python", ""),
        setup,
        value.get("cwd", ""),
        dict(env),
        _texts(value.get("args", ()), f"{place}['args']"),
    )


def _number(value: Any, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _wrong(place, repr(value), "the number of engines is a whole number from 1 on")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
        _wrong(place, repr(value), "it must be a list of texts")
    return tuple(value)


def _split(text: str) -> Iterator[str]:
    """Yield the words between commas, those inside brackets left alone."""
    depth = start = 0
    for position, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth <= 0:
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()


def _spans(text: str, whole: str, origin: str) -> list[str]:
    """Return what stands for ``01-03,7``; numbers are as wide as the first of a span."""
    found: list[str] = []
    for piece in text.split(","):
        match = _SPAN.match(piece.strip())
        if match is None:
            _wrong(origin, repr(whole), f"[{text}] is no range: write [01-64] or [1,3-5]")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            _wrong(origin, repr(whole), f"{first}-{last} counts down")
        if int(last) - int(first) >= MOST_HOSTS:
            _wrong(origin, repr(whole), f"more than {MOST_HOSTS} hosts")
        found += [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    return found


def _checked(target: str, origin: str) -> str:
    try:
        return str(destination(target))
    except ValueError:
        _wrong(origin, repr(target), "a host is [user@]host[:port]")


def _assigned(
    statement: ast.stmt, known: Mapping[str, Any], origin: str
) -> Iterator[tuple[str, Any]]:
    """Yield the names that a statement gives a value to."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return  # a docstring
    if isinstance(statement, ast.Assign):
        targets = statement.targets
        if all(isinstance(target, ast.Name) for target in targets):
            try:
                value = ast.literal_eval(_Known(known).visit(statement.value))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                pass
            else:
                for target in targets:
                    assert isinstance(target, ast.Name)
                    yield target.id, value
                return
    raise LaunchError(
        f"line {statement.lineno} of {origin} is more than a value: such files are read, not"
        " run. Write engines = {'host': number, ...} with plain values, or compute it in"
        " ipclusterz_config.py as c.SSHLauncher.engines"
    )


class _Known(ast.NodeTransformer):
    """Puts values in the place of names that were given them before."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self._known:
            return node
        return ast.parse(repr(self._known[node.id]), mode="eval").body


def _wrong(place: str, what: str, remedy: str) -> NoReturn:
    raise LaunchError(f"{place}: {what}: {remedy}")
