"""What runs out: disk, open files, the right to write.  Work goes on, or the error is exact."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import ipclusterz as ipp
from tests.running import Running, arguments, eventually, run

LINUX_ROOT = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.getuid() != 0,
    reason="mounting a small disk needs root on Linux",
)


@pytest.fixture
def small_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``$IPYTHONDIR`` on a file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    monkeypatch.setenv("IPYTHONDIR", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no room in the file system of ``folder``."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    try:
        yield
    finally:
        ballast.unlink()


def hub_log(folder: Path) -> str:
    [log] = folder.glob("cluster_default/log/*hub*.log")
    return log.read_text()


# -- disk ----------------------------------------------------------------------------------


@LINUX_ROOT
def test_a_disk_that_fills_up_stops_no_work_and_loses_no_record(small_home: Path) -> None:
    def loud(x: int) -> int:
        print("x" * 100)
        return x

    with ipp.Cluster(n=2) as rc:
        view = rc.load_balanced_view()
        assert view.apply_sync(abs, -1) == 1
        assert len(rc.hub_history()) == 1
        with full(small_home):
            assert view.map_sync(loud, range(2000)) == list(range(2000))
            with pytest.raises(ipp.error.KernelError, match=r"tasks\.db.*full.*wait in memory"):
                rc.hub_history()
            assert view.apply_sync(abs, -2) == 2
        assert len(rc.hub_history()) == 2002
        assert "cannot write the task database" in hub_log(small_home)
        assert "can be written again; nothing was lost" in hub_log(small_home)


@LINUX_ROOT
def test_a_full_disk_at_the_start_is_said_and_leaves_nothing_half_written(
    small_home: Path,
) -> None:
    with full(small_home):
        done = run("ipclusterz start -n 1 --daemon")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr and "--profile-dir" in done.stderr
        assert "Traceback" not in done.stderr
        done = run("ipcontrollerz")
        assert done.returncode == 1 and "No space left on device" in done.stderr
    security = small_home / "cluster_default" / "security"
    assert not security.exists() or os.listdir(security) == []
    assert run("ipclusterz list -o json").stdout.strip() == "[]"
    with ipp.Cluster(n=1) as rc:
        assert rc[0].apply_sync(abs, -3) == 3


# -- shared memory -------------------------------------------------------------------------

SMALL_SHARED_MEMORY = """
mount -t tmpfs -o size=2m,mode=1777 tmpfs /dev/shm || exit 99
[ "$1" = full ] && { cat /dev/zero > /dev/shm/ballast; }
shift
exec "$@"
"""

FULL = """
import os, tempfile
import ipclusterz as ipp
with ipp.Cluster(n=2) as rc:
    a = bytes(range(256)) * 10_000
    assert rc[:].apply_sync(lambda x: x + b"!", a) == [a + b"!"] * 2
    folders = [name for name in os.listdir(tempfile.gettempdir()) if name[:3] == "ipc"]
    assert len(folders) >= 2 and os.listdir("/dev/shm") == ["ballast"], folders
print("all done")
"""

SMALL = """
import os
import ipclusterz as ipp
with ipp.Cluster(n=2) as rc:
    assert rc[0].apply_sync(len, bytes(5_000_000)) == 5_000_000  # on a disk
    assert len(rc[1].apply_sync(bytes, 5_000_000)) == 5_000_000
assert os.listdir("/dev/shm") == []
print("all done")
"""

WANTED = """
import os
os.environ["IPCLUSTERZ_BODIES"] = "/dev/shm"  # and no other place
import ipclusterz as ipp
with ipp.Cluster(n=2) as rc:
    a = os.urandom(500_000)
    assert rc[:].apply_sync(lambda x: x[::-1], a) == [a[::-1]] * 2
    for large in (lambda: rc[0].apply_sync(len, bytes(5_000_000)),
                  lambda: rc[1].apply_sync(bytes, 5_000_000)):
        try:
            large()
        except Exception as error:
            assert "no room for an object of 5000" in str(error), error
            assert "No space left on device" in str(error), error
            assert "IPCLUSTERZ_BODIES" in str(error), error
        else:
            raise AssertionError("there was room")
        assert rc[:].apply_sync(lambda x: x[::-1], a) == [a[::-1]] * 2
assert os.listdir("/dev/shm") == []
print("all done")
"""


@LINUX_ROOT
@pytest.mark.parametrize(
    ("state", "code"),
    [("full", FULL), ("small", SMALL), ("small", WANTED)],
    ids=["full", "small", "wanted"],
)
def test_shared_memory_that_is_full_or_small(state: str, code: str) -> None:
    inside = ["sh", "-c", SMALL_SHARED_MEMORY, "sh", state, sys.executable, "-c", code]
    done = subprocess.run(
        ["unshare", "-m", *inside],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "all done\n", done


# -- the right to write --------------------------------------------------------------------

READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99
shift
exec "$@"
"""


@LINUX_ROOT
@pytest.mark.parametrize("line", ["ipclusterz start -n 1", "ipcontrollerz"])
def test_a_home_that_is_read_only_is_said_with_the_ways_out(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("IPYTHONDIR", str(home))
    command = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(home), *arguments(line)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 1, done
    assert "Read-only file system" in done.stderr and str(home) in done.stderr
    assert "--profile-dir" in done.stderr and "IPYTHONDIR" in done.stderr
    assert "Traceback" not in done.stderr


@LINUX_ROOT
@pytest.mark.parametrize("line", ["ipclusterz start -n 1 --daemon", "ipclusterz start -n 1"])
def test_a_profile_that_became_read_only_is_said(line: str, ipython_dir: Path) -> None:
    assert run("ipclusterz create").returncode == 0
    command = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(ipython_dir), *arguments(line)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 1, done
    assert "Read-only file system; put the profile where you can write" in done.stderr
    assert "--profile-dir or $IPYTHONDIR" in done.stderr and "Traceback" not in done.stderr
    assert run("ipclusterz list -o json").stdout.strip() == "[]"


# -- a home that two hosts have ------------------------------------------------------------


def test_on_another_host_a_cluster_is_named_and_left_alone(ipython_dir: Path) -> None:
    """A living cluster whose files say that it is login2's, as login1 sees it."""
    with ipp.Cluster(n=1, cluster_id="") as rc:
        profile = ipython_dir / "cluster_default"
        [path] = (profile / "pid").iterdir()
        state = json.loads(path.read_text())
        path.write_text(json.dumps(state | {"host": "login2", "boot_id": "another"}))
        for file in (profile / "security").iterdir():
            document = json.loads(file.read_text())
            file.write_text(json.dumps(document | {"location": "login2", "hostid": "another"}))
        before = sorted(str(file) for file in profile.rglob("*.json"))
        for line in ("stop", "stop --all"):
            done = run(f"ipclusterz {line}")
            assert (
                done.returncode == 1 and "on host login2: run 'ipclusterz stop'" in done.stderr
            )
        [row] = json.loads(run("ipclusterz list -o json").stdout)
        assert (row["running"], row["host"], row["engines"]) == (None, "login2", 1)
        assert "started on host login2" in run("ipclusterz clean").stdout
        done = run("ipclusterz start -n 1 --daemon")
        assert done.returncode == 10 and "was started on host login2" in done.stderr
        # These go through the connector, by a tunnel as it were.
        status = json.loads(run("ipclusterz status -o json").stdout)
        assert (status["host"], len(status["engines"])) == ("login2", 1)
        assert "engine" in run("ipclusterz logs").stdout
        assert rc[0].apply_sync(abs, -7) == 7
        assert sorted(str(file) for file in profile.rglob("*.json")) == before
        path.write_text(json.dumps(state))


# -- open files ----------------------------------------------------------------------------


def test_too_few_open_files_are_said_before_anything_starts() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    done = run("ipclusterz start -n 8", preexec_fn=limit)
    assert done.returncode == 1
    assert "an agent with 8 engines needs up to 112 open files, and 100 are allowed" in (
        done.stderr
    )
    assert "ulimit -n 112" in done.stderr and "Traceback" not in done.stderr
    assert run("ipclusterz list -o json").stdout.strip() == "[]"


def spent(process: psutil.Process) -> float:
    """Seconds of processor so far; none for one that has ended, as forks in between do."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def test_a_controller_short_of_open_files_turns_clients_away_and_works_on() -> None:
    with contextlib.ExitStack() as stack:
        others = {*psutil.Process().children(recursive=True)}  # the lab's hosts, perhaps
        rc = stack.enter_context(ipp.Cluster(n=1))
        family = [p for p in psutil.Process().children(recursive=True) if p not in others]
        for process in list(family):
            try:
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (110, 110))
            except ProcessLookupError:  # one that was only needed for the start
                family.remove(process)
        clients: list[ipp.Client] = []
        with pytest.raises(ipp.error.KernelError, match="open files left.*ulimit -n"):
            for _ in range(100):
                clients.append(stack.enter_context(ipp.Client(rc.connection_file)))
        assert len(clients) >= 2
        used = [spent(process) for process in family]
        for client in clients:
            assert client[0].apply_sync(abs, -5) == 5
        again = [spent(process) for process in family]
        # Out of descriptors ZeroMQ would spin, several seconds of work for these few calls.
        assert max(after - before for before, after in zip(used, again, strict=True)) < 5
        assert not any(rc.session.connection.query("status")["restarts"].values())
        # One could be replaced just so, had the database not opened a file meanwhile.
        for _ in range(2):
            clients.pop().close()

        def let_in() -> bool:
            try:
                with ipp.Client(rc.connection_file) as client:
                    return bool(client[0].apply_sync(abs, -6) == 6)
            except ipp.AuthenticationError:
                return False

        eventually(let_in, what="a client that left made no room")


# -- again and again -----------------------------------------------------------------------


def cycles(n: int) -> None:
    """Start and stop ``n`` clusters; nothing may stay, and the program may not grow."""
    me = psutil.Process()
    before = me.children(recursive=True)
    files, memory = 0, 0
    for cycle in range(n):
        with ipp.Cluster(n=2) as rc:
            assert rc[:].apply_sync(abs, -cycle) == [cycle, cycle]
        if cycle == min(9, n // 2):
            files, memory = me.num_fds(), me.memory_info().rss
    assert [child for child in me.children(recursive=True) if child not in before] == []
    assert me.num_fds() <= files + 2
    assert me.memory_info().rss <= memory + 20e6 + 50e3 * n


def remains() -> set[str]:
    """Folders of clusters among the run's own temporary files (shared memory is looked at
    when the whole run ends: other clusters may live there)."""
    places = {tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/nowhere")}
    return {
        os.path.join(place, name)
        for place in places
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name.startswith("ipclusterz-")
    }


def test_ten_clusters_one_after_the_other(ipython_dir: Path) -> None:
    before = remains()
    cycles(10)
    assert remains() <= before
    assert os.listdir(ipython_dir / "cluster_default" / "security") == []
    assert os.listdir(ipython_dir / "cluster_default" / "pid") == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_clusters_one_after_the_other(ipython_dir: Path) -> None:
    before = remains()
    cycles(int(os.environ.get("IPCLUSTERZ_TEST_CYCLES", "1000")))
    assert remains() <= before
    assert os.listdir(ipython_dir / "cluster_default" / "security") == []
    assert os.listdir(ipython_dir / "cluster_default" / "pid") == []
    logs = list((ipython_dir / "cluster_default" / "log").iterdir())
    assert sum(log.stat().st_size for log in logs) < 50e6


def test_ten_starts_by_command(tmp_path: Path) -> None:
    before = remains()
    for _ in range(10):
        started = Running("ipclusterz start -n 1")
        started.until("ready in")
        assert started.end() == 0
    assert remains() <= before


# -- the profile folder --------------------------------------------------------------------


def test_no_lock_socket_or_shared_memory_in_the_profile_folder(ipython_dir: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        all_kinds_of_work(rc)
        assert strangers(ipython_dir) == []
    assert strangers(ipython_dir) == []


# As if the home folder came from a file server, for each process of a cluster.
ON_A_NETWORK = """
import ipclusterz.store.place as place
place.filesystem.__defaults__ = ({table!r},)
"""


def test_on_a_network_file_system_the_database_needs_no_shared_memory(
    ipython_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("31 1 0:27 / / rw,relatime shared:1 - nfs4 server:/home rw\n")
    (tmp_path / "sitecustomize.py").write_text(ON_A_NETWORK.format(table=str(table)))
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), root)))
    with ipp.Cluster(n=2, cluster_id="") as rc:
        all_kinds_of_work(rc)
        assert strangers(ipython_dir, wal=False) == []
        assert len(rc.hub_history()) >= 100
    assert strangers(ipython_dir, wal=False) == []
    assert "nfs4" in hub_log(ipython_dir)


def all_kinds_of_work(rc: ipp.Client) -> None:
    rc[:].push({"a": bytes(10_000_000)}, block=True)
    assert rc[:].apply_sync(len, ipp.Reference("a")) == [10_000_000] * 2
    assert rc.load_balanced_view().map_sync(abs, range(100)) == list(range(100))
    assert rc[0].execute("print('said')", block=True).stdout == "said\n"
    with pytest.raises(ZeroDivisionError):
        rc[1].execute("1/0", block=True)
    waiting = rc.load_balanced_view().map_async(abs, range(10))
    assert rc.hub_history() and waiting.get() == list(range(10))


def strangers(folder: Path, wal: bool = True) -> list[str]:
    """What lies in an IPython folder and is not one of the files that belong there.

    ``wal``: a database of a local file system has its log and the index of it beside it.
    """
    belongs = (
        r"security/ipcontroller-(\w+-)?(client|engine)\.json",
        r"log/ip(controller|engine|cluster)z?(-[\w-]+)?\.(log|out|err)",
        r"pid/cluster-?\w*\.json",
        r"tasks\.db" + (r"(-wal|-shm)?" if wal else r"(-journal)?"),
    )
    found = []
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            inside = str(path.relative_to(folder / "cluster_default"))
            kind = stat.S_IFMT(path.lstat().st_mode)
            if kind == stat.S_IFDIR and inside in (".", "security", "log", "pid", "startup"):
                continue
            if kind != stat.S_IFREG or not any(re.fullmatch(b, inside) for b in belongs):
                found.append(inside)
    return found
