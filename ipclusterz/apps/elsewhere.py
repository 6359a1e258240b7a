"""A whole cluster on another host, started and stopped from here by SSH.

``ipclusterz start --controller=ssh --controller-host=login ...`` runs the same command there,
in the background, and fetches the client's connector back over the same connection, with the
host filled in as the SSH server to go through.  The profile here then looks as if the cluster
were here: ``Client()`` finds it, ``ipclusterz stop`` ends it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from ipclusterz.apps.base import AlreadyStopped, ExitCode
from ipclusterz.cluster import SettingError
from ipclusterz.cluster import state as states
from ipclusterz.cluster.deployment import AlreadyRunning, check_free
from ipclusterz.core.connector import dump, parse, valid_ssh
from ipclusterz.core.ssh import in_sh, last_lines, quoted
from ipclusterz.error import ClusterError, KernelError, LaunchError
from ipclusterz.files import remove, write_private
from ipclusterz.net.ssh import Connection, connect
from ipclusterz.paths import ProfileDir

_OURS = ("--controller", "--controller-host", "--profile-dir", "--ipython-dir", "--cluster-dir")
_FLAGS = ("--daemon", "--daemonize", "--foreground")
_MARK = "ipclusterz-answers"
_SAY_MARK = f"printf '\\n%s\\n' {_MARK}"
_START_SECONDS = 30.0  # besides those that engines may take
_STOP_SECONDS = 40.0
_UNKNOWN = float("inf")
_STOP_TRIES, _STOP_PAUSE = 4, 0.5  # a command there is seconds from beginning, at most

# For whatever Python is there; argv: our package's folder, then the command's words.
_RUN = """
import sys
if sys.path and sys.path[0] == "": del sys.path[0]
sys.path.append(sys.argv.pop(1))
try: from ipclusterz.apps import cluster
except ImportError as error:
    sys.exit("%s: install ipclusterz there, for %s" % (error, sys.executable))
sys.exit(cluster.main(sys.argv[1:]))
"""
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(
    profile: ProfileDir, cluster_id: str, host: str, words: Sequence[str], wait: float
) -> str:
    """Start a cluster on ``host`` by the words of this command; return what was said there.

    ``wait`` is how many seconds its engines may take.  Raises SSHError, LaunchError with the
    words of the command there, or AlreadyRunning.
    """
    _check_host(host)
    profile.create()
    with states.lock(profile):
        check_free(profile, cluster_id)
    connection = _connected(host)
    may_run = False
    try:
        began = _clock(connection)
        may_run = True
        try:
            said = _run(connection, host, ["start", "--daemon", *passed_on(words)], wait)
        except ClusterError:
            may_run = False  # the command there says so itself
            raise
        _fetch(connection, profile, cluster_id, host, words)
    except BaseException as error:  # Ctrl-C as well: the command there would go on
        if may_run and not _undone(connection, host, words, cluster_id, began):
            raise ClusterError(
                f"{error or type(error).__name__}; a cluster may have begun on {host}: end it"
                f" there (ssh {host} ipclusterz stop)"
            ) from None
        raise
    finally:
        connection.close()
    return said


def _undone(
    connection: Connection, host: str, words: Sequence[str], cluster_id: str, began: float
) -> bool:
    """Stop what a start there began, which may be about to; False if that is not possible.

    A cluster from before ``began``, by the clock there, is somebody else's.
    """
    try:
        for _ in range(_STOP_TRIES):
            if row := _row(connection, host, words, cluster_id):
                if began == _UNKNOWN:
                    return False
                if row["started"] >= began:
                    _run(connection, host, ["stop", *_selection(words)], _STOP_SECONDS)
                return True
            time.sleep(_STOP_PAUSE)
    except AlreadyStopped:
        pass
    except KernelError:
        return False
    return True


def _clock(connection: Connection) -> float:
    """Return the time there; :data:`_UNKNOWN` where ``date`` does not tell it exactly."""
    # Whole seconds would take a cluster of the same second, from before, for ours.
    done = connection.run(in_sh(f"{_SAY_MARK}; date +%s.%N"))
    said = _own(done.stdout).strip()
    return float(said) if re.fullmatch(r"\d+\.\d+", said) else _UNKNOWN


def stop(state: states.State) -> None:
    """Stop a cluster that :func:`start` started; remove what it left here.

    AlreadyStopped when it is not there any more, SSHError when its host cannot be reached.
    """
    connection = _connected(state.remote)
    try:
        _run(connection, state.remote, ["stop", *state.remote_words], _STOP_SECONDS)
    except AlreadyStopped:
        _forget(state)
        raise
    finally:
        connection.close()
    _forget(state)


def passed_on(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that are meant for the host."""
    found = []
    waiting = iter(words)
    for word in waiting:
        name, has_value, _ = word.partition("=")
        if name in _OURS:
            if not has_value:
                next(waiting, "")
        elif word not in _FLAGS:
            found.append(word)
    return found


def _check_host(host: str) -> None:
    if not host:
        raise SettingError(
            "--controller=ssh needs a host: add --controller-host=[USER@]HOST[:PORT]"
        )
    if not valid_ssh(host):
        raise SettingError(
            f"--controller-host is {host!r}: it must be [USER@]HOST[:PORT]; name hosts on the"
            " way as ProxyJump in ~/.ssh/config"
        )


def _connected(host: str) -> Connection:
    return connect(host, config=os.environ.get("IPCLUSTERZ_SSH_CONFIG", ""))


def _run(connection: Connection, host: str, words: Sequence[str], wait: float) -> str:
    """Run ``ipclusterz`` there; return what it printed."""
    command = quoted(["-c", _RUN, _ROOT, *words])
    text = (
        f'python={quoted([sys.executable])}; [ -x "$python" ] || python=python3;'
        f' {_SAY_MARK}; {_SAY_MARK} >&2; exec "$python" {command}'
    )
    done = connection.run(in_sh(text), timeout=wait + _START_SECONDS)
    said, errors = (_own(data) for data in (done.stdout, done.stderr))
    if done.code in (ExitCode.ALREADY_STOPPED, ExitCode.NO_CLUSTER):
        raise AlreadyStopped(f"on {host}: {errors.strip()}")
    if done.code == ExitCode.ALREADY_RUNNING:
        raise AlreadyRunning(f"on {host}: {errors.strip()}")
    if done.code != 0:
        lines = last_lines(errors, 3) or last_lines(said, 3)
        raise LaunchError(
            f"on {host}: {' '.join(lines)}" if lines else f"{host}: ended with {done.code}"
        )
    return said


def _own(data: bytes) -> str:
    """Return what is ours of a text: start-up files of shells print as well."""
    text = data.decode(errors="replace")
    return text.partition(f"{_MARK}\n")[2] if _MARK in text else text


def _fetch(
    connection: Connection,
    profile: ProfileDir,
    cluster_id: str,
    host: str,
    words: Sequence[str],
) -> None:
    """Bring the client's connector here, and note where its cluster is."""
    path = profile.state_file(cluster_id)
    if states.read(path) is not None:
        # Written a moment ago, by the command there: the home folder is the same.
        raise ClusterError(
            f"{host} has the same home folder as this host, so the profile would hold two"
            f" clusters: run 'ipclusterz start' there (ssh {host}), Client() finds it here"
        )
    row = _row(connection, host, words, cluster_id)
    if not row:
        raise LaunchError(f"on {host}: the cluster ended as soon as it had begun")
    done = connection.run(in_sh(f"{_SAY_MARK}; cat -- {quoted([row['client_file']])}"))
    if done.code != 0:
        words_there = " ".join(last_lines(done.stderr.decode(errors="replace"), 1))
        raise LaunchError(f"on {host}: cannot read {row['client_file']}: {words_there}")
    origin = f"{host}:{row['client_file']}"
    connector = msgspec.structs.replace(parse(_own(done.stdout), origin), ssh=host)
    state = states.new(profile, cluster_id, False)
    state.launcher = None
    state.host, state.boot_id, state.space = row["host"], "", ""
    state.remote, state.remote_words = host, _selection(words)
    state.started = time.time()
    write_private(state.client_file, dump(connector).encode())
    with states.lock(profile):
        states.write(state)


def _row(
    connection: Connection, host: str, words: Sequence[str], cluster_id: str
) -> dict[str, Any]:
    """Return what the list of clusters there says of ours; empty if it is not in it."""
    listed = _run(connection, host, ["list", "-o", "json"], 0.0)
    name = _value(words, "--profile", "-p") or "default"
    for row in json.loads(listed):
        if row["profile"] == name and row["cluster_id"] == cluster_id:
            return dict(row)
    return {}


def _selection(words: Sequence[str]) -> list[str]:
    """Return the options that name the cluster there."""
    found = []
    for names in (("--profile", "-p"), ("--cluster-id",)):
        if value := _value(words, *names):
            found.append(f"{names[0]}={value}")
    return found


def _value(words: Sequence[str], *names: str) -> str:
    from ipclusterz.apps.options import value_of

    return value_of(words, *(name.lstrip("-") for name in names))


def _forget(state: states.State) -> None:
    remove(state.client_file)
    remove(state.path)
