"""``ipcontrollerz``: one controller in the foreground, and the settings of all controllers."""

from __future__ import annotations

import os
import sys
from typing import Any

from traitlets import Bool, Float, Int, Unicode

from ipclusterz.apps import output
from ipclusterz.apps.base import BaseApp, run
from ipclusterz.apps.options import CONTROLLER_ALIASES, CONTROLLER_FLAGS, merged
from ipclusterz.cluster import ControllerSettings
from ipclusterz.cluster import state as states
from ipclusterz.cluster.deployment import check_free
from ipclusterz.cluster.kept import settle
from ipclusterz.cluster.settings import check_key, read_key
from ipclusterz.files import quote

EXAMPLES = """
ipcontrollerz                           # then 'ipenginez', as often as wanted
ipcontrollerz -r --regport 12345        # keep key, ports and files for next time
ipcontrollerz --ports 12345-12351       # all seven ports, for a firewall
ipcontrollerz --transport ipc           # this host only, no TCP port at all
"""


class ControllerApp(BaseApp):
    """Runs one controller, hub and schedulers, until Ctrl-C."""

    name = Unicode("ipcontrollerz")
    description = Unicode(
        "Runs one controller: the hub and four schedulers, on seven ports of this host.\n\n"
        "Writes ipcontroller-client.json and ipcontroller-engine.json into the profile's\n"
        "security folder, by which clients and engines find it.  Ctrl-C ends it."
    )
    examples = Unicode(EXAMPLES)
    config_names = ("ipcontrollerz_config",)
    warn_root = True

    ip = Unicode(
        "127.0.0.1",
        help="Where to listen besides loopback: an address, an interface such as eth1, a host"
        " name, auto (the address by which this host reaches others), or * for all.",
    ).tag(config=True)
    client_ip = Unicode(
        "",
        help="Where clients from other hosts may come, written like ip; empty: nowhere, only"
        " engines come to ip.",
    ).tag(config=True)
    ports = Unicode(
        "",
        help="Seven ports, like 12345-12351: registration, heartbeat, query, direct, task,"
        " control, iopub.",
    ).tag(config=True)
    regport = Int(0, help="The port of registration; 0: any.").tag(config=True)
    hb = Int(0, help="The port of heartbeats; 0: any.").tag(config=True)
    query = Int(0, help="The port of queries and notifications; 0: any.").tag(config=True)
    mux = Int(0, help="The port of the direct scheduler; 0: any.").tag(config=True)
    task = Int(0, help="The port of the task scheduler; 0: any.").tag(config=True)
    control = Int(0, help="The port of the control scheduler; 0: any.").tag(config=True)
    iopub = Int(0, help="The port of the output scheduler; 0: any.").tag(config=True)
    notifier = Int(0, help="The same as query.").tag(config=True)
    transport = Unicode("tcp", help="tcp, or ipc: no TCP port at all.").tag(config=True)
    url = Unicode("", help="Sums up transport, ip and regport.").tag(config=True)
    location = Unicode("", help="The host name for the connector files.").tag(config=True)
    ssh = Unicode("", help="The SSH server for clients, [user@]host[:port].").tag(config=True)
    enginessh = Unicode("", help="The SSH server for engines.").tag(config=True)
    reuse_files = Bool(
        False, help="Keep key, ports and connector files for the next start."
    ).tag(config=True)
    execkey = Unicode(
        "",
        help="A file, readable by you alone, with a key of your own of at least 16 bytes;"
        " - asks for it.  Never the key itself.",
    ).tag(config=True)
    lease = Float(600.0, help="Seconds that engines outlive a lost controller.").tag(
        config=True
    )
    hang_limit = Float(
        30.0,
        help="Seconds after which a part of the controller that hangs is started again; 0:"
        " never.",
    ).tag(config=True)
    ping = Int(1000, help="Milliseconds between heartbeats.").tag(config=True)
    scheme = Unicode(
        "leastload",
        help="How tasks find engines: leastload, lru, plainrandom, weighted, twobin, pure.",
    ).tag(config=True)
    hwm = Int(0, help="Tasks given to an engine ahead of time; 0: decide.").tag(config=True)

    db = Unicode(
        "sqlite",
        help="Where the hub remembers tasks: sqlite (a file), memory, or none.",
    ).tag(config=True)
    db_dir = Unicode("", help="The folder of the task database; empty: the profile's.").tag(
        config=True
    )

    aliases = merged(CONTROLLER_ALIASES)
    flags = {**BaseApp.flags, **CONTROLLER_FLAGS}  # noqa: RUF012

    def settings(self) -> ControllerSettings:
        """Return the settings as they were made; what was not said is left open."""
        found = ControllerSettings(
            **{
                name: getattr(self, name)
                for name in ControllerSettings.__struct_fields__
                if name not in ("execkey", "ip", "transport")
            }
        )
        # With -r, what was not said is what was kept, not the default.
        found.ip = self.ip if self.was_said("ip") else ""
        found.transport = self.transport if self.was_said("transport") else ""
        if self.execkey == "-":
            import getpass  # only who asks for it

            found.execkey = check_key(getpass.getpass("Key: ").encode(), "the prompt")
        elif self.execkey:
            found.execkey = read_key(self.execkey)
        return found

    def start(self) -> Any:
        """Run the controller here; return its exit code."""
        from ipclusterz.net import controller  # slow, and not needed for help

        folder = self.folder.create()
        settings = self.settings()
        with states.lock(folder):
            kept = check_free(folder, self.cluster_id)
            config = settle(settings, folder, self.cluster_id)
            config.log_dir, config.log_level = self.log_dir, self.level
            state = states.new(folder, self.cluster_id, own=False)
            state.launcher, state.controller = None, state.launcher
            state.reuse = config.reuse
            state.jobs = kept
            states.write(state)
        os.environ[states.TOKEN] = state.token
        try:
            return controller.run(config, lambda event: self._report(event, state), None)
        finally:
            # Engines may have been added by batch jobs since.
            states.clean(states.reread(state) or state)

    def _report(self, event: dict[str, Any], state: states.State) -> None:
        kind = event["event"]
        if kind == "ready":
            with states.lock(self.folder):
                state.runtime = str(event.get("runtime", ""))
                known = states.reread(state)
                if known is not None:
                    known.runtime = state.runtime
                    states.write(known)
            self.say(f"controller up: {event.get('url', '')}")
            if event.get("beyond"):
                self.say(f"note:          {event['beyond']}")
            self.say(f"for clients:   {state.client_file}")
            self.say(f"for engines:   {state.engine_file}")
            self.say(f"start engines: ipenginez --file={quote(state.engine_file)}")
            self.say("stop:          Ctrl-C")
        elif kind == "error":
            output.complain(f"{self.name}: {event.get('text', '')}")
        elif text := event.get("text") or event.get("reason"):
            self.say(f"{kind}: {text}")


def main(argv: list[str] | None = None) -> int:
    """Run ``ipcontrollerz``; return the exit code."""
    return run(ControllerApp, argv)


if __name__ == "__main__":
    sys.exit(main())
