"""The commands as users meet them: what they print and the codes they return."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.apps.report import Report
from ipclusterz.apps.start import StartApp
from ipclusterz.engine import bodies
from tests.running import MODULES, ROOT, Running, arguments, eventually, kill, run


@pytest.fixture
def start() -> Iterator[type[Running]]:
    made: list[Running] = []

    class Started(Running):
        def __init__(self, line: str) -> None:
            super().__init__(line)
            made.append(self)

    yield Started
    for running in made:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ipclusterz start -n 0", "-n is 0"),
        ("ipclusterz start -n -3", "-n"),
        ("ipclusterz engines -n 0", "-n is 0"),
        ("ipclusterz start -n x", "start: -n is 'x': it must be an int"),
        ("ipenginez --lease=long", "ipenginez: --lease is 'long': it must be a float"),
        ("ipclusterz start --queue=a --engines=slurm --queue=b", "--queue is given more than"),
        ("ipclusterz start --foo=3", "no option --foo"),
        ("ipclusterz start --prelod=numpy", "no option --prelod; the nearest is --preload;"),
        ("ipclusterz start --nodbb", "no option --nodbb; the nearest is --nodb;"),
        ("ipclusterz start --EngineApp.prelod=x", "the nearest is c.EngineApp.preload"),
        ("ipclusterz stop --profil-dir x", "the nearest is --profile-dir;"),
        ("ipcontrollerz --regprt 12345", "the nearest is --regport;"),
        ("ipenginez --fil=x", "the nearest is --file;"),
        ("ipclusterz start now", "takes no such argument: now"),
        ("ipclusterz start --engines=moon", "no launcher 'moon'"),
        ("ipclusterz begin", "no subcommand 'begin'"),
        ("ipclusterz pbs -n 128 --pbs-script=/no/such", "cannot read the template /no/such"),
        ("ipclusterz ssh --clusterfile /no/such", "cannot read /no/such"),
        ("ipclusterz list -o xml", "must be json"),
        ("ipclusterz create --template=moon", "there are: default"),
        ("ipclusterz start --config=/no/such/file", "no config file /no/such/file"),
        ("ipcontrollerz --ports 12345", "12345-12351"),
        ("ipcontrollerz --execkey=/no/such/key", "no key file /no/such/key"),
        ("ipcontrollerz --ssh=-oProxyCommand=x", "[user@]host[:port]"),
        ("ipenginez -n 0", "-n is 0"),
        ("ipenginez --lease=-4", "--lease is -4: seconds, or 0"),
        ("ipclusterz start -n", "error: argument -n: expected one argument"),
        ("ipclusterz logs --bundle", "error: argument --bundle: expected one argument"),
        ("ipclusterz start -n 1 --cluster-id=a/b", "'a/b' cannot be a cluster id"),
        ("ipclusterz start -n 1 --profile=../x", "'../x' cannot be a profile name"),
        ("ipcontrollerz --db-dir=/proc/x", "--db-dir is /proc/x: No such file or directory"),
        ("ipenginez --startup=/no/such", "no start-up script"),
    ],
)
def test_misuse_is_a_usage_error(line: str, words: str) -> None:
    done = run(line)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c.StartApp.nn = 3", "there is no setting c.StartApp.nn; the nearest is c.StartApp.n"),
        ("c.EngineApp.lease = 'x'", "c.EngineApp.lease is 'x': it must be a float"),
        ("c.EngineApp.lease =", "SyntaxError: invalid syntax"),
    ],
)
def test_a_wrong_config_file_is_named_in_one_line(
    ipython_dir: Path, text: str, words: str
) -> None:
    path = ipython_dir / "cluster_default" / "ipenginez_config.py"
    path.parent.mkdir()
    path.write_text(text)
    done = run("ipenginez")
    assert done.returncode == 2
    assert done.stderr.startswith(f"ipenginez: the config file {path} cannot be used: {words}")
    assert done.stderr.count("\n") == 1


def test_a_config_file_of_another_encoding_is_named(ipython_dir: Path) -> None:
    path = ipython_dir / "cluster_default" / "ipclusterz_config.py"
    path.parent.mkdir()
    path.write_bytes("c.StartApp.engines = 'für zwei'".encode("latin-1"))
    done = run("ipclusterz start")
    assert done.returncode == 2
    assert f"the config file {path} cannot be used" in done.stderr
    assert "utf-8" in done.stderr and "Traceback" not in done.stderr


def test_help_in_words() -> None:
    assert run("ipclusterz help").stdout == run("ipclusterz --help").stdout
    done = run("ipclusterz help start")
    assert done.returncode == 0 and done.stdout == run("ipclusterz start --help").stdout


def test_engines_that_wait_say_how_their_controller_is_started(start: type[Running]) -> None:
    named = start("ipenginez --profile=w --cluster-id=x").until("waiting for")
    advice = "start the controller with 'ipcontrollerz --profile=w --cluster-id=x' (or give"
    assert advice in named
    told = start("ipenginez --file=/no/file").until("waiting for")
    assert told == "waiting for /no/file: start the controller with 'ipcontrollerz'\n"


@pytest.mark.parametrize("command", MODULES)
def test_version(command: str) -> None:
    from ipclusterz import __version__

    assert run(f"{command} --version").stdout.strip() == __version__


def test_the_life_of_a_daemon(start: type[Running]) -> None:
    started = run("ipclusterz start -n 2 --daemon")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        lines = started.stdout.splitlines()
        assert lines[0].startswith("controller up: tcp://127.0.0.1:")
        assert lines[1:3] == ["1/2 engines", "2/2 engines"]
        assert re.fullmatch(r"ready in \d+\.\d s", lines[3])
        assert lines[4] == "connect: import ipclusterz as ipp; rc = ipp.Client()"
        assert lines[5] == "stop:    ipclusterz stop"
        again = run("ipclusterz start -n 1")
        assert again.returncode == 10 and "runs already" in again.stderr
        assert run("ipcontrollerz").returncode == 10
        code = lines[4].removeprefix("connect: ") + "; print(rc[:].apply_sync(lambda: 7))"
        used = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
        assert used.stdout == "[7, 7]\n", used.stderr
        more = run("ipclusterz engines -n 1 --daemon")
        assert more.returncode == 0 and "1/1 engines" in more.stdout, more.stderr
        (row,) = json.loads(run("ipclusterz list -o json").stdout)
        assert (row["profile"], row["running"], row["engines"]) == ("default", True, 3)
        table = run("ipclusterz list").stdout.splitlines()
        assert table[0].split()[0] == "PROFILE" and table[1].split()[2] == "yes"
    finally:
        stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert run("ipclusterz stop").returncode == 11
    assert json.loads(run("ipclusterz list -o json").stdout) == []


def test_one_ctrl_c_stops_cleanly(start: type[Running], ipython_dir: Path) -> None:
    running = start("ipclusterz start -n 2 --cluster-id=fg")
    running.until("^stop: +Ctrl-C")
    assert any("cluster_id='fg'" in line for line in running.lines)
    assert running.end() == 0
    assert running.lines[-1].startswith("stopping")
    profile = ipython_dir / "cluster_default"
    assert list((profile / "pid").iterdir()) == list((profile / "security").iterdir()) == []


def test_stop_ends_a_foreground_cluster_too(start: type[Running]) -> None:
    running = start("ipclusterz start -n 1")
    running.until("^stop:")
    assert run("ipclusterz stop --all").returncode == 0
    assert running.process.wait(10) == 0


def test_a_damaged_state_file_is_named_and_no_second_cluster_takes_its_place(
    ipython_dir: Path,
) -> None:
    started = run("ipclusterz start -n 1 --daemon")
    assert started.returncode == 0, started.stdout + started.stderr
    file = ipython_dir / "cluster_default" / "pid" / "cluster-.json"
    good = file.read_text()
    try:
        for damaged in ("", "{}", good[:-20]):
            file.write_text(damaged)
            for line in ("ipclusterz stop", "ipclusterz start -n 1 --daemon"):
                done = run(line)
                assert done.returncode == 1, done.stdout + done.stderr
                assert f"the state file {file} is damaged" in done.stderr
                assert "shutdown(hub=True)" in done.stderr
    finally:
        file.write_text(good)
        stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr


def test_what_cannot_start_ends_it_with_the_reason() -> None:
    for daemon in ("", " --daemon"):
        done = run("ipclusterz start -n 2 --preload=no_such_module" + daemon)
        assert done.returncode == 1
        assert "No module named 'no_such_module'" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_a_killed_launcher_takes_all_along(start: type[Running]) -> None:
    running = start("ipclusterz start -n 1")
    running.until("^stop:")
    running.end(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while run("ipclusterz list -o json").stdout.find('"running": true') > 0:
        assert time.monotonic() < deadline
    assert run("ipclusterz stop").returncode == 11


def test_codes_for_what_is_not_there() -> None:
    assert run("ipclusterz stop").returncode == 12
    assert run("ipclusterz create").returncode == 0
    assert run("ipclusterz stop").returncode == 11
    assert run("ipclusterz stop --cluster-id=x").returncode == 12
    assert run("ipclusterz stop --profile=x").returncode == 12
    assert run("ipclusterz stop --all").returncode == 0
    missing = run("ipclusterz engines -n 1")
    assert missing.returncode == 12 and "ipclusterz start" in missing.stderr


def test_engines_wait_for_the_controllers_file(start: type[Running], ipython_dir: Path) -> None:
    file = ipython_dir / "cluster_default" / "security" / "ipcontroller-engine.json"
    engine = start("ipenginez -n 2")
    engine.until(f"waiting for {re.escape(str(file))}: start the controller")
    controller = start("ipcontrollerz")
    line = controller.until("^start engines:")
    assert line.split(": ", 1)[1].strip() == f"ipenginez --file={file}"
    engine.until(r"engine \d is ready")
    second = start(f"ipenginez --file={file}")
    second.until("engine 2 is ready")
    assert controller.end() == 0
    assert not file.exists()
    for running in (engine, second):
        assert running.process.wait(15) == 0, running.lines


def test_a_clients_file_is_not_for_engines(start: type[Running], ipython_dir: Path) -> None:
    controller = start("ipcontrollerz")
    controller.until("^stop:")
    file = ipython_dir / "cluster_default" / "security" / "ipcontroller-client.json"
    wrong = run(f"ipenginez --file={file}")
    assert wrong.returncode == 1 and "ipcontroller-engine.json" in wrong.stderr
    file.chmod(0o644)
    open_to_all = run(f"ipenginez --file={file}")
    assert f"chmod 600 {file}" in open_to_all.stderr


def test_r_keeps_files_across_restarts(start: type[Running], ipython_dir: Path) -> None:
    security = ipython_dir / "cluster_default" / "security"
    engine_file = security / "ipcontroller-engine.json"
    seen = []
    for _ in range(2):
        controller = start("ipcontrollerz -r")
        controller.until("^stop:")
        document = json.loads(engine_file.read_text())
        seen.append([document["exec_key"], document["server_key"], document["url"]])
        assert controller.end() == 0
        assert engine_file.exists()
    assert seen[0] == seen[1]
    port = int(seen[0][2].rpartition(":")[2])
    other = run(f"ipcontrollerz -r --regport {port + 1}")
    assert other.returncode == 2
    assert str(port) in other.stderr and str(port + 1) in other.stderr
    command = other.stderr[other.stderr.index("rm ") :].strip()
    subprocess.run(command, shell=True, check=True)
    assert list(security.iterdir()) == []


def test_created_profiles_show_every_setting(ipython_dir: Path) -> None:
    done = run("ipclusterz create --profile=work")
    assert done.returncode == 0, done.stderr
    folder = ipython_dir / "cluster_work"
    assert {"security", "log", "pid", "startup"} <= {path.name for path in folder.iterdir()}
    assert (folder / "security").stat().st_mode & 0o777 == 0o700
    text = (folder / "ipcontrollerz_config.py").read_text()
    for setting in ("ip", "regport", "ssh", "reuse_files", "execkey", "lease"):
        assert text.count(f"# c.ControllerApp.{setting} = ") == 1
    (folder / "ipclusterz_config.py").write_text("c.StartApp.n = 0\nc.StartApp.delay = -1.0\n")
    bad = run("ipclusterz start --profile=work")
    assert bad.returncode == 2 and "delay" in bad.stderr
    assert "kept" in run("ipclusterz create --profile=work").stdout
    assert "kept" not in run("ipclusterz create --profile=work --reset").stdout
    (folder / "ipclusterz_config.py").write_text("1/0\n")
    broken = run("ipclusterz start --profile=work")
    assert broken.returncode == 2 and "ZeroDivisionError" in broken.stderr


def test_start_up_scripts_and_commands_run_in_each_engine(ipython_dir: Path) -> None:
    run("ipclusterz create")
    startup = ipython_dir / "cluster_default" / "startup"
    (startup / "10-first.py").write_text("from_script = 1\n")
    started = run("ipclusterz start -n 1 --daemon -c from_flag=2")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        import ipclusterz as ipp

        with ipp.Client() as rc:
            assert rc[:].pull(["from_script", "from_flag"], block=True) == [[1, 2]]
    finally:
        run("ipclusterz stop")


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_root_is_warned_in_one_line() -> None:
    done = run("ipclusterz start -n 1 --daemon")
    run("ipclusterz stop")
    assert done.stderr.count("\n") == 1 and "running as root" in done.stderr


def test_examples_in_help_are_commands_that_parse() -> None:
    for line in ("ipclusterz start -h", "ipcontrollerz -h", "ipenginez -h"):
        done = run(line)
        assert done.returncode == 0
        examples = done.stdout[done.stdout.index("Examples") :].splitlines()[2:-2]
        commands = [text.split("#")[0].strip() for text in examples if text.strip()]
        assert len(commands) >= 3 and all({*c.split()} & {*MODULES} for c in commands)


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("c.ControllerApp.regprt = 1", "c.ControllerApp.regport"),
        ("c.EngineApp.prelod = 'x'", "c.EngineApp.preload"),
        ("c.ControlerApp.regport = 1", "c.ControllerApp"),
    ],
)
def test_a_setting_that_does_not_exist_is_an_error_naming_the_nearest(
    ipython_dir: Path, line: str, nearest: str
) -> None:
    profile = ipython_dir / "cluster_default"
    profile.mkdir(mode=0o700)
    config = profile / "ipclusterz_config.py"
    config.write_text(f"{line}\n")
    done = run("ipclusterz start -n 1 --daemon")
    assert done.returncode == 2 and not done.stdout
    assert str(config) in done.stderr and f"the nearest is {nearest}\n" in done.stderr
    import ipclusterz as ipp

    with pytest.raises(ipp.error.ClusterError, match=f"the nearest is {nearest}$"):
        ipp.Cluster(n=1)


def terminal_closed(running: Running) -> None:
    """Do what the system does: to each process of the terminal's foreground group."""
    os.killpg(running.process.pid, signal.SIGHUP)


def left_in(profile: Path) -> list[str]:
    return [str(path) for name in ("pid", "security") for path in (profile / name).iterdir()]


def test_a_terminal_that_is_closed_ends_it_in_order(
    start: type[Running], ipython_dir: Path
) -> None:
    for line, ready in (("ipclusterz start -n 1", "^stop:"), ("ipcontrollerz", "^stop:")):
        running = start(line)
        running.until(ready)
        terminal_closed(running)
        assert running.wait() == 0, running.text
        assert left_in(ipython_dir / "cluster_default") == []


def test_engines_end_in_order_with_their_terminal(
    start: type[Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bodies.PLACE, str(tmp_path))
    controller = start("ipcontrollerz")
    controller.until("^stop:")
    engines = start("ipenginez -n 2")
    engines.until("engine 0 is ready")
    assert list(tmp_path.iterdir()) != []
    terminal_closed(engines)
    assert engines.wait() == 0, engines.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "ready"), [("ipclusterz start -n 1", "^stop:"), ("ipcontrollerz", "^stop:")]
)
def test_nohup_is_left_alone(
    start: type[Running], line: str, ready: str, ipython_dir: Path
) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it starts has inherited that
    try:
        running = start(line)
    finally:
        signal.signal(signal.SIGHUP, old)
    running.until(ready)
    terminal_closed(running)
    log = ipython_dir / "cluster_default" / "log" / "ipcontroller.log"
    done = run("ipclusterz status" if "start" in line else "ipclusterz list")
    assert done.returncode == 0, done.stdout + done.stderr
    assert running.process.poll() is None
    assert running.end(signal.SIGTERM) == 0
    assert "signal SIGHUP" not in log.read_text()


def test_a_reader_that_has_gone_breaks_nothing(ipython_dir: Path) -> None:
    words = arguments("ipclusterz start -n 1")
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("stop:"):
                break
        process.stdout.close()
        file = ipython_dir / "cluster_default" / "pid" / "cluster-.json"
        more = run("ipclusterz engines -n 1 --daemon")  # the first one is told of nothing
        assert more.returncode == 0, more.stdout + more.stderr
        state = json.loads(file.read_text())
        kill(state["engine_sets"]["e1"]["pid"])  # that is told, to nobody
        kill(state["controller"]["pid"])
        assert process.wait(30) == 1
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def test_a_terminal_that_goes_during_the_start_of_a_daemon(
    start: type[Running], ipython_dir: Path
) -> None:
    running = start("ipclusterz start -n 1 --daemon --delay=1")
    running.until("^controller up:")
    terminal_closed(running)
    assert running.wait() == -signal.SIGHUP
    log = ipython_dir / "cluster_default" / "log" / "ipclusterz.log"
    try:
        eventually(log.exists, what="it goes on and is ready")
        shown = json.loads(run("ipclusterz list -o json").stdout)
        assert [row["engines"] for row in shown] == [1]
        assert "Traceback" not in log.read_text()
    finally:
        stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str) -> None:
    words = shlex.join(arguments("ipclusterz start -n 1 --daemon"))
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], cwd=ROOT, timeout=60)
    try:
        assert done.returncode == 0
        (row,) = json.loads(run("ipclusterz list -o json").stdout)
        assert (row["running"], row["engines"]) == (True, 1)
    finally:
        stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr


def test_what_only_prints_ends_with_its_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        arguments("ipclusterz list -o json"),
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    os.close(write)
    assert done.returncode == 1 and done.stderr == ""


def test_what_is_shown_for_pasting_survives_the_shell(tmp_path: Path) -> None:
    app = StartApp()
    app.profile_dir = str(tmp_path / "it's $HOME's")
    assert shlex.split(app._selection()) == [f"--profile-dir={app.profile_dir}"]
    app = StartApp()
    app.profile, app.ipython_dir, app.cluster_id = "my work", str(tmp_path / "a b"), "night"
    assert shlex.split(app._selection()) == [
        "--profile=my work",
        f"--ipython-dir={app.ipython_dir}",
        "--cluster-id=night",
    ]


def test_news_for_nobody_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    report = Report(StartApp().say)
    report({"event": "ready", "url": "tcp://127.0.0.1:5"})
    report({"event": "less", "text": "node1 cannot be reached"})
    report.complete()
    report({"event": "error", "text": "an error"})
    report({"event": "engine_down", "id": 0, "reason": "killed"})
    stream.close()  # nothing is held back that would fail at the end
