"""``ipclusterz revoke``: new keys for a running cluster; old connector files are worthless."""

from __future__ import annotations

from typing import Any

from traitlets import Enum, Float, Unicode

from ipclusterz.apps.base import BaseApp, ExitCode, NoSuchCluster
from ipclusterz.cluster import SettingError

ROLES = {"client": ["client"], "engine": ["engine"], "both": ["client", "engine"]}


class RevokeApp(BaseApp):
    """Renews the keys in the connector files of a running cluster."""

    name = Unicode("ipclusterz revoke")
    description = Unicode(
        "Renews the keys in the connector files of a running cluster: copies of the old files\n"
        "let nobody in any more.  Who is connected stays, with all tasks, unless dropped here."
        "\n\nWorks on the controller's host only."
    )
    examples = Unicode(
        "\nipclusterz revoke                             # both files\n"
        "ipclusterz revoke --role=client --client=all  # and drop all clients\n"
        "ipclusterz revoke --role=engine --engine=3    # and the agent of engine 3\n"
    )

    role = Enum(
        sorted(ROLES), "both", help="Whose key is renewed: client, engine or both."
    ).tag(config=True)
    engine = Unicode("", help="Engines to drop, like 3 or 3,5.").tag(config=True)
    client = Unicode("", help="Clients to drop: HOST:PID, several with commas, or all.").tag(
        config=True
    )
    timeout = Float(10.0, help="Seconds to wait for the controller.").tag(config=True)

    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        "role": ("RevokeApp.role", "client, engine or both. [both]"),
        "engine": ("RevokeApp.engine", "Engines to drop, like 3,5, with their whole agents."),
        "client": ("RevokeApp.client", "Clients to drop: HOST:PID, ..., or all."),
        "timeout": ("RevokeApp.timeout", "Seconds to wait for the controller. [10]"),
    }

    def start(self) -> Any:
        """Ask the controller; return the exit code."""
        roles = ROLES[self.role]
        engines = self._engines()
        clients = [name for name in self.client.split(",") if name]
        for said, role in ((engines, "engine"), (clients, "client")):
            if said and role not in roles:
                raise SettingError(
                    f"--{role} drops who could come back at once: use --role={role} or both"
                )
        if self.timeout <= 0:
            raise SettingError("timeout must be more than 0 seconds")
        from ipclusterz.apps.overview import NothingRuns, Watch  # sockets: not for help

        try:
            watch = Watch(self.folder, self.cluster_id, self.timeout)
        except NothingRuns as error:
            raise NoSuchCluster(str(error)) from None
        asked = [roles, engines, clients]
        try:
            told = watch.connection.query("revoke", asked, timeout=self.timeout + 5)
        finally:
            watch.close()
        for gone in told["dropped"]:
            self.say(f"dropped {gone}")
        carried = told["carried"] - ("client" in roles)  # this command is one of them
        self.say(f"{carried} connected peer{'s' * (carried != 1)} stayed")
        for role in roles:
            file = self.folder.connector(role, self.cluster_id)
            self.say(f"copies of the old {role} file are worthless now; the new one is {file}")
        return ExitCode.OK

    def _engines(self) -> list[int]:
        try:
            return [int(number) for number in self.engine.split(",") if number]
        except ValueError:
            raise SettingError(
                f"engine is {self.engine!r}: it must be numbers like 3 or 3,5"
            ) from None
