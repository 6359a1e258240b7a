"""A controller that cannot start: what it must not take along."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ipclusterz import files
from ipclusterz.core.config import ControllerConfig
from ipclusterz.error import LaunchError
from ipclusterz.net import controller, journal


@pytest.mark.parametrize("reuse", [True, False])
def test_a_failed_start_keeps_what_waits_for_the_next_one(tmp_path: Path, reuse: bool) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    key = str(tmp_path / "ipcontroller.key") if reuse else ""
    estate = journal.estate_of(key, str(runtime))
    kept = [estate, journal.path_of(key)] if reuse else [estate]
    for path in kept:
        files.write_private(path, b"x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ControllerConfig(
            client_file=str(tmp_path / "client.json"),
            engine_file=str(tmp_path / "engine.json"),
            key_file=key,
            reuse=reuse,
            exec_key=os.urandom(32),
            runtime=str(runtime),
            ports={"registration": taken.getsockname()[1]},
        )
        with pytest.raises(LaunchError, match="Address already in use"):
            controller.run(config, lambda event: None, None)
    # Without -r nobody else will ever read it.
    assert [os.path.exists(path) for path in kept] == [reuse] * len(kept)
