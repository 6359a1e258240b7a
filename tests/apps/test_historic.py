"""What old documents and scripts say still leads somewhere: today's command, today's flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipclusterz.apps.historic import LAUNCHERS, todays_form
from ipclusterz.launchers.base import BUILT_IN
from tests.core.test_template import ORIGINAL
from tests.running import run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mpiexec -n 4", "--engines=mpi -n 4"),
        ("mpirun -n 4", "--engines=mpi --mpi-cmd=mpirun -n 4"),
        ("mpiexec -n 4 --mpi=mpi4py", "--engines=mpi -n 4"),
        ("mpiexec --mpi mpi4py -n 4", "--engines=mpi -n 4"),
        ("mpiexec --mpi -n 4", "--engines=mpi -n 4"),
        ("mpiexec -h", "--engines=mpi -h"),
        (
            "pbs -n 128 --pbs-script=pbs.template",
            "--engines=pbs -n 128 --batch-template=pbs.template",
        ),
        ("pbs --pbs-script pbs.template", "--engines=pbs --batch-template=pbs.template"),
        ("ssh --clusterfile /path/to/it.py", "--engines=ssh --clusterfile /path/to/it.py"),
        ("ssh --sshx=my.sh", "--engines=ssh --sshx=my.sh"),
        ("ssh", "--engines=ssh"),
    ],
)
def test_each_old_mode_has_a_form_of_today(old: str, new: str) -> None:
    assert todays_form(old.split()) == f"ipclusterz start {new}"


def test_todays_form_can_be_pasted() -> None:
    form = todays_form(["pbs", "--pbs-script=my template", "-n", "2"])
    assert form == "ipclusterz start --engines=pbs '--batch-template=my template' -n 2"


@pytest.mark.parametrize("mode", sorted(LAUNCHERS))
def test_an_old_mode_is_understood(mode: str) -> None:
    assert LAUNCHERS[mode] in BUILT_IN
    old, new = run(f"ipclusterz {mode} -h"), run(f"ipclusterz start --engines={mode} -h")
    assert (old.returncode, old.stderr) == (0, "")
    assert f"Options of --engines={LAUNCHERS[mode]}" in old.stdout
    assert new.returncode == 0


def test_the_original_documents_template_is_submitted(tmp_path: Path) -> None:
    """Shown, not submitted: the same by the old words and by today's."""
    template = tmp_path / "pbs.template"
    template.write_text(ORIGINAL)
    old = run(f"ipclusterz pbs -n 128 --pbs-script={template} --dry-run")
    assert old.returncode == 0, old.stderr
    script = ORIGINAL.replace("${n/4}", "32").replace("${n}", "128").replace("$$", "$")
    assert script in old.stdout
    assert re.search(r"^\$ qsub \S+/job.sh$", old.stdout, re.MULTILINE)
    new = run(f"ipclusterz start --engines=pbs -n 128 --batch-template={template} --dry-run")
    folder = re.compile(r"jobs/e1-\w+")
    assert folder.sub("", new.stdout) == folder.sub("", old.stdout)
    mistake = run(f"ipclusterz pbs -n 127 --pbs-script={template} --dry-run")
    assert mistake.returncode == 2
    assert f"{template}, line 4: ${{n/4}} leaves a remainder (127/4)" in mistake.stderr


COMMON = "--work-dir=. --clean-logs --log-to-file --log-level=INFO".split()
CONTROLLER = """
--ip=127.0.0.1 --transport=tcp --url=tcp://127.0.0.1:12345 --regport=12345 --location=here
--ssh=me@gate --reuse-files --execkey=KEY --hb=1 --mux=2 --task=3 --control=4 --iopub=5
--query=6 --notifier=6 --ping=1000 --scheme=lru --hwm=1 --sqlite
""".split()


@pytest.mark.parametrize("profile", ["--profile=x", "-p x", "--cluster-dir=cluster_x"])
@pytest.mark.parametrize(
    ("command", "flags", "shown"),
    [
        ("ipcontrollerz", [*CONTROLLER], [".hwm = 1", ".db = 'sqlite'", ".mux = 2"]),
        ("ipcontrollerz", ["-r"], [".reuse_files = True"]),
        ("ipclusterz start", [*CONTROLLER, "--delay=1"], [".delay = 1", ".scheme = 'lru'"]),
        ("ipclusterz start", ["-n", "4", "--daemon"], [".n = 4", ".daemon = True"]),
        ("ipenginez", ["-c", "pass", "--file=FILE"], [".command = 'pass'", ".file = 'FILE'"]),
    ],
)
def test_flags_of_the_documents_are_understood(
    command: str, flags: list[str], shown: list[str], profile: str
) -> None:
    """They are shown and not acted upon; a flag that nobody knows would be an error."""
    done = run(" ".join([command, "--show-config", *COMMON, *flags, profile]))
    assert done.returncode == 0, done.stderr
    assert [text for text in shown if text not in done.stdout] == []
