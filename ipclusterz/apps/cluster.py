"""``ipclusterz``: the command whose subcommands start, stop, list and make clusters."""

from __future__ import annotations

import sys
from typing import Any

from traitlets import Unicode

from ipclusterz.apps import historic
from ipclusterz.apps.base import BaseApp, ExitCode, run
from ipclusterz.apps.clean import CleanApp
from ipclusterz.apps.create import CreateApp
from ipclusterz.apps.logs import LogsApp
from ipclusterz.apps.revoke import RevokeApp
from ipclusterz.apps.start import EnginesApp, StartApp
from ipclusterz.apps.status import StatusApp
from ipclusterz.apps.stop import ListApp, StopApp


class ClusterApp(BaseApp):
    """Starts, lists and stops clusters."""

    name = Unicode("ipclusterz")
    description = Unicode(
        "Starts, lists and stops clusters of Python engines.\n\n"
        "Each subcommand has its own help, as 'ipclusterz start -h'. "
        "Besides them, 'ipclusterz ssh check HOST ...' tests hosts for use through SSH."
    )
    examples = Unicode(
        "\nipclusterz start -n 4\nipclusterz start -n 4 --daemon\nipclusterz list\n"
        "ipclusterz stop\n"
    )
    subcommands = {  # noqa: RUF012 - as traitlets has it
        "start": (StartApp, "Start a controller and engines."),
        "stop": (StopApp, "Stop a cluster, or all."),
        "list": (ListApp, "List clusters."),
        "status": (StatusApp, "Show what the engines of a cluster do."),
        "logs": (LogsApp, "Show or follow the logs of a cluster, or pack them up."),
        "revoke": (RevokeApp, "Renew the keys of a running cluster."),
        "clean": (CleanApp, "Remove what clusters left that were killed."),
        "engines": (EnginesApp, "Add engines to a running cluster."),
        "create": (CreateApp, "Make a profile with commented config files."),
    }

    def start(self) -> Any:
        """Run the subcommand; without one, print the help."""
        if self.subapp is not None:
            return self.subapp.start()
        self.print_help()
        return ExitCode.USAGE


def main(argv: list[str] | None = None) -> int:
    """Run ``ipclusterz``; return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:2] == ["ssh", "check"]:  # 'ssh' with anything else is a mode of old
        from ipclusterz.apps.sshcheck import SSHCheckApp  # 10 ms that nothing else needs

        return run(SSHCheckApp, words[2:])
    if words and words[0] in historic.LAUNCHERS:
        words = historic.todays_words(words)
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    known = ("help", *ClusterApp.subcommands)
    if words and not words[0].startswith("-") and words[0] not in known:
        print(
            f"ipclusterz: there is no subcommand {words[0]!r}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return ExitCode.USAGE
    return run(ClusterApp, words)


if __name__ == "__main__":
    sys.exit(main())
