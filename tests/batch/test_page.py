"""The Python on the pages on batch systems and launchers runs as it is printed there."""

from __future__ import annotations

from pathlib import Path

import ipclusterz as ipp
from tests.batch.conftest import submitted
from tests.promises.test_guide import blocks, run_python
from tests.running import ROOT, run


def printed(page: str) -> list[str]:
    found = [
        block["text"] or ""
        for block in blocks(ROOT / "docs" / page)
        if block["kind"] == "python" and not block["skip"]
    ]
    assert found, f"docs/{page} shows no Python"
    return found


def test_engines_that_come_by_a_batch_system(batch: Path) -> None:
    """The first minutes with a batch system, with its profile."""
    example, *_ = printed("batch.md")
    assert run("ipclusterz create --profile=slurm").returncode == 0
    started = run("ipclusterz start --profile=slurm -n 2 --ip=127.0.0.1 --allow-loopback")
    assert started.returncode == 0, started.stderr
    names = {"__name__": "__main__", "work": abs}
    try:
        run_python(example, names)
        assert list(names["results"].get(timeout=60)) == list(range(10_000))  # type: ignore[attr-defined]
    finally:
        if isinstance(rc := names.get("rc"), ipp.Client):
            rc.close()
    assert submitted(batch) == ["1"]


def test_a_controller_in_a_job(batch: Path) -> None:
    """The client of a controller that is queued first waits for it."""
    example, waits, _ = printed("batch.md")
    line = "ipclusterz start --profile=slurm --controller=slurm -n 1 --ip=127.0.0.1"
    assert run("ipclusterz create --profile=slurm").returncode == 0
    started = run(f"{line} --allow-loopback --controller-queue=long --controller-walltime=2d")
    assert started.returncode == 0, started.stderr
    names = {"__name__": "__main__"}
    try:
        run_python(example.partition("rc =")[0] + waits, names)
        assert names["rc"].ids == [0]  # type: ignore[attr-defined]
    finally:
        if isinstance(rc := names.get("rc"), ipp.Client):
            rc.close()
        assert run("ipclusterz stop --profile=slurm").returncode == 0
    assert submitted(batch) == ["1", "2"]


def test_a_batch_system_of_ones_own(batch: Path, ipython_dir: Path) -> None:
    """The declaration in a profile's folder is enough to submit to it."""
    *_, example = printed("batch.md")
    folder = ipython_dir / "cluster_default"
    folder.mkdir(parents=True)
    (folder / "launcher_mine.py").write_text(example)
    (batch.parent / "bin" / "our-sbatch").symlink_to(batch.parent / "bin" / "sbatch")
    shown = run("ipclusterz start -n 2 --engines=mine --allow-loopback --dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "our-sbatch --parsable" in shown.stdout
    assert submitted(batch) == []


def test_a_launcher_of_ones_own_has_its_options(ipython_dir: Path) -> None:
    """The class in a profile's folder gives its mode options, help and settings."""
    (example,) = printed("launchers.md")
    folder = ipython_dir / "cluster_default"
    folder.mkdir(parents=True)
    (folder / "launcher_cloud.py").write_text(f"{example}\nlauncher = CloudLauncher\n")
    told = run("ipclusterz start --engines=cloud -h")
    assert told.returncode == 0, told.stderr
    assert "--region" in told.stdout
    assert "Where the machines are. [nearest]" in " ".join(told.stdout.split())
    (folder / "ipclusterz_config.py").write_text("c.CloudLauncher.regio = 'north'\n")
    wrong = run("ipclusterz start --engines=cloud -n 1")
    assert wrong.returncode == 2
    assert "c.CloudLauncher.regio; the nearest is" in wrong.stderr
