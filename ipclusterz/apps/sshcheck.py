"""``ipclusterz ssh check``: whether hosts are ready to be reached by SSH, line by line.

Lives here: the command and how it shows its findings.  What is asked is in
:mod:`ipclusterz.apps.sshprobe`, how it is judged in :mod:`ipclusterz.core.sshcheck`.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from msgspec.structs import asdict
from traitlets import Bool, Float, Int, Unicode

from ipclusterz.apps.base import BaseApp, ExitCode
from ipclusterz.cluster import SettingError
from ipclusterz.core import hosts, sshcheck
from ipclusterz.core.ssh import destination
from ipclusterz.core.sshcheck import Line
from ipclusterz.error import LaunchError


class SSHCheckApp(BaseApp):
    """Tests hosts behind SSH."""

    name = Unicode("ipclusterz ssh check")
    description = Unicode(
        "Tests whether hosts can be used through SSH: name, port, host key, login, shell,\n"
        "Python and packages, clock, limits, forwarding both ways.  Each line passed or\n"
        "failed with its remedy; exit code 0 if all passed.\n\n"
        "Asks for no password, accepts no unknown host key, changes nothing."
    )
    examples = Unicode(
        "\nipclusterz ssh check node1\n"
        "ipclusterz ssh check 'node[01-16]' ada@login:2222\n"
        "ipclusterz ssh check node1 -o json -q\n"
    )
    config_names = ()

    output = Unicode("", help="json, or empty for lines.").tag(config=True)
    python = Unicode("", help="Python on the hosts; empty: as engines are started.").tag(
        config=True
    )
    sshkey = Unicode("", help="A private key.").tag(config=True)
    paramiko = Bool(False, help="Use paramiko instead of the ssh program.").tag(config=True)
    timeout = Float(10.0, help="Seconds to wait for a connection.").tag(config=True)
    parallel = Int(16, help="Hosts that are tested at once.").tag(config=True)

    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        ("o", "output"): ("SSHCheckApp.output", "json, for programs."),
        "python": ("SSHCheckApp.python", "Python on the hosts."),
        "sshkey": ("SSHCheckApp.sshkey", "A private key."),
        "timeout": ("SSHCheckApp.timeout", "Seconds to wait for a connection. [10]"),
        "parallel": ("SSHCheckApp.parallel", "Hosts that are tested at once. [16]"),
    }
    flags = {  # noqa: RUF012
        **BaseApp.flags,
        "paramiko": ({"SSHCheckApp": {"paramiko": True}}, "Use paramiko, not ssh."),
    }
    _words: list[str]

    def initialize(self, argv: Any = None) -> None:
        """Read the options; what is no option is a host."""
        super().initialize(argv)

    def parse_command_line(self, argv: Any = None) -> None:
        """Keep the hosts apart from the options."""
        super().parse_command_line(argv)
        self._words, self.extra_args = list(self.extra_args), []

    def start(self) -> Any:
        """Test all hosts; return the exit code."""
        places = self._places()
        if self.output not in ("", "json"):
            raise SettingError(f"-o is {self.output!r}: it must be json")
        if self.timeout <= 0 or self.parallel < 1:
            raise SettingError("timeout must be more than 0 seconds, parallel at least 1")
        found = self._test(places)
        good = all(_good(lines) for lines in found.values())
        if self.output:
            document = {
                "passed": good,
                "hosts": [
                    {"host": name, "passed": _good(lines), "checks": [asdict(x) for x in lines]}
                    for name, lines in found.items()
                ],
            }
            print(json.dumps(document, indent=2))
        return ExitCode.OK if good else ExitCode.FAILED

    def _places(self) -> list[str]:
        names: list[str] = []
        for word in self._words:
            try:
                # What has commas goes through several hosts, and is one.
                names += [word] if "," in word else hosts.expand(word, "the command line")
                destination(names[-1])
            except (LaunchError, ValueError) as error:
                raise SettingError(str(error)) from None
        if not names:
            raise SettingError("which hosts? ipclusterz ssh check HOST ...")
        return list(dict.fromkeys(names))

    def _test(self, names: list[str]) -> dict[str, list[Line]]:
        from concurrent.futures import ThreadPoolExecutor  # not for help

        from ipclusterz.apps.sshprobe import Probe

        stop: list[str] = []
        printing = threading.Lock()

        def test(name: str) -> list[Line]:
            probe = Probe(
                destination(name),
                python=self.python,
                key=self.sshkey,
                paramiko=self.paramiko,
                timeout=self.timeout,
                stopped=lambda: stop[0] if stop else "",
            )
            lines = probe.run()
            if any(x.check == "host key" and sshcheck.changed(x.text) for x in lines):
                stop.append(f"the host key of {name} has changed, which stops everything")
            with printing:
                self._show(name, lines)
            return lines

        with ThreadPoolExecutor(min(self.parallel, len(names))) as pool:
            return dict(zip(names, pool.map(test, names), strict=True))

    def _show(self, name: str, lines: list[Line]) -> None:
        if self.output:
            return
        failed = [line for line in lines if line.state == sshcheck.FAILED]
        # Nothing failed and something was not tested: whoever reads this must know why.
        silent = not failed and not _good(lines)
        shown = failed if self.quiet and not silent else lines
        if not shown:
            return
        width = max(len(check) for check in sshcheck.CHECKS)
        print(name)
        rest = [line for line in shown if line.state == sshcheck.SKIPPED and not _cannot(line)]
        for line in shown:
            if line in rest:
                continue
            print(f"  {line.state:10}  {line.check:{width}}  {line.text}")
            if line.remedy:
                print(f"  {'':10}  {'':{width}}  -> {line.remedy}")
        if rest:  # all for the same reason: what came before has failed
            print(f"  {sshcheck.SKIPPED:10}  {', '.join(line.check for line in rest)}")
            if silent:
                print(f"  {'':10}  -> {rest[0].text}")
        sys.stdout.flush()


def _good(lines: list[Line]) -> bool:
    """Tell whether a host passed; what this ssh cannot do at all is no failure of the host."""
    return all(line.state == sshcheck.PASSED or _cannot(line) for line in lines)


def _cannot(line: Line) -> bool:
    return line.state == sshcheck.SKIPPED and line.text.endswith(" cannot")
