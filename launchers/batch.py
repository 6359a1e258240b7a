"""Starts engines in jobs of a batch system: the options, the script, the submission.

Works for any ``ipclusterz.launchers.systems.System``.  A launcher's ``start`` makes the
script and checks all that can be checked; the job is submitted when the connector is told,
because engines need the controller.  The connector travels in an owner-only file beside the
script, on the file system that nodes and controller share: neither script nor environment
nor arguments hold a key.  What happens to the job then is in
``ipclusterz.launchers.batchjob``.  A controller's own job is submitted at once
(``start_controller``), by a script that is always ours.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from ipclusterz.core.template import TemplateError, Value, render, used
from ipclusterz.error import LaunchError
from ipclusterz.files import quote
from ipclusterz.launchers.base import LaunchSpec
from ipclusterz.launchers.batchjob import BatchJob, Submission
from ipclusterz.launchers.systems import Request, System, refuse, seconds_of

if TYPE_CHECKING:
    from ipclusterz.launchers.controllerjob import ControllerJob

SHAPES = ("one", "array", "per-node")

TEMPLATE = """\
#!/bin/sh
${directives}
${setup}
cd ${work_dir} || exit 1
exec ${engine_command} >>${log_file} 2>&1
"""
"""The script that is made without a template of the user's."""


class BatchOptions(Struct):
    """What can be said about jobs; the same for all systems."""

    queue: Annotated[str, Meta(description="The queue or partition. [the system's]")] = ""
    walltime: Annotated[
        str, Meta(description="How long a job may run: 1:30:00, 2-00:00:00, 90m or 12h.")
    ] = ""
    account: Annotated[str, Meta(description="The account or project to charge.")] = ""
    directive: Annotated[
        list[str],
        Meta(description="A further directive, like '-l mem=4gb'. May be given repeatedly."),
    ] = []
    setup: Annotated[
        list[str],
        Meta(description="A line of shell before the engines, like 'module load gcc'."),
    ] = []
    batch_template: Annotated[
        str, Meta(description="A template of the whole script. [a good one is made]")
    ] = ""
    define: Annotated[
        dict[str, str],
        Meta(description="A name of your own for the template, NAME=VALUE. Repeatedly."),
    ] = {}
    engines_per_node: Annotated[
        int, Meta(description="Engines on each node. [all of them on one]")
    ] = 0
    shape: Annotated[
        str, Meta(description="one job, a job array, or a job per-node. [one; array for more]")
    ] = ""
    job_name: Annotated[str, Meta(description="The name of the job. [ipclusterz]")] = (
        "ipclusterz"
    )
    wait: Annotated[
        int, Meta(description="Return when so many engines are ready, not at once.")
    ] = 0
    dry_run: Annotated[
        bool, Meta(description="Print script and command; submit and start nothing.")
    ] = False
    drain: Annotated[
        int,
        Meta(description="Seconds before a job's end in which engines begin nothing new. [60]"),
    ] = 60
    allow_loopback: Annotated[
        bool,
        Meta(description="Submit although the controller listens on this host's loopback."),
    ] = False
    controller_queue: Annotated[
        str, Meta(description="The queue of a controller in a job. [as --queue]")
    ] = ""
    controller_walltime: Annotated[
        str, Meta(description="How long a controller in a job may run. [as --walltime]")
    ] = ""
    controller_directive: Annotated[
        list[str],
        Meta(description="A directive for a controller in a job. [those of --directive]"),
    ] = []


class BatchLauncher:
    """Starts engines in jobs; a class for each system names its declaration."""

    Options = BatchOptions
    SYSTEM: ClassVar[System]
    AFTER_CONTROLLER = True

    def __init__(self, options: BatchOptions | None = None) -> None:
        self.options = options or BatchOptions()
        o = self.options
        if o.shape not in ("", *SHAPES):
            raise LaunchError(f"shape is {o.shape!r}: choose from {', '.join(SHAPES)}")
        for name in ("engines_per_node", "wait", "drain"):
            if getattr(o, name) < 0:
                word = name.replace("_", "-")
                raise LaunchError(f"--{word} is {getattr(o, name)}: it must not be negative")
        for name in ("queue", "account", "job_name", "controller_queue"):
            if any(character.isspace() for character in getattr(o, name)):
                raise LaunchError(f"{name} is {getattr(o, name)!r}: no spaces may be in it")
        self.walltime = seconds_of(o.walltime)
        seconds_of(o.controller_walltime)

    def system(self) -> System:
        """Return the declaration; where there are dialects, that of this host."""
        return self.SYSTEM

    def start(self, spec: LaunchSpec) -> BatchJob:
        """Make the scripts of ``spec.n`` engines; they are submitted with the connector."""
        system = self.system()
        return BatchJob(system, spec, self.options, self.walltime, self.plan(spec, system))

    def adopt(self, spec: LaunchSpec, ids: list[str]) -> BatchJob:
        """Watch jobs that another process submitted for the launch ``spec``."""
        job = BatchJob(self.system(), spec, self.options, self.walltime, [])
        job.adopt(ids)
        return job

    def start_controller(self, spec: LaunchSpec) -> ControllerJob:
        """Submit a job that runs a controller, at once; LaunchError if it is not accepted."""
        from ipclusterz.launchers.controllerjob import ControllerJob  # for those who want one

        system = self.system()
        own = self._for_controller()
        made = own._controller(spec, system)
        job = ControllerJob(system, spec, own.options, own.walltime, [made])
        job.submit()
        return job

    def preview(self, spec: LaunchSpec) -> str:
        """Return scripts and commands as they would be submitted, for people."""
        return _shown(self.plan(spec, self.system()))

    def preview_controller(self, spec: LaunchSpec) -> str:
        """Return the same for a controller's job."""
        return _shown([self._for_controller()._controller(spec, self.system())])

    def _for_controller(self) -> BatchLauncher:
        """Return the launcher whose options are those of a controller's job.

        It is not warned before its end: only agents know what that signal means.
        """
        o = self.options
        own = replace(
            o,
            queue=o.controller_queue or o.queue,
            walltime=o.controller_walltime or o.walltime,
            directive=o.controller_directive or o.directive,
            job_name="ipcontrollerz" if o.job_name == "ipclusterz" else o.job_name,
            batch_template="",
            define={},
            drain=0,
        )
        return type(self)(own)

    def _controller(self, spec: LaunchSpec, system: System) -> Submission:
        return self._submission(spec, system, 1, 1, 0, -1, 1, "controller")

    def plan(self, spec: LaunchSpec, system: System) -> list[Submission]:
        """Return what to submit: one job, an array, or a job for each node."""
        per = self.options.engines_per_node or spec.n
        nodes = -(-spec.n // per)
        shape = self.options.shape or ("one" if nodes == 1 else "array")
        if shape == "one" and nodes > 1 and not system.spread:
            raise LaunchError(
                f"one job on {nodes} nodes: {system.name} has no command that starts engines on"
                " all nodes of a job; use --shape=array or --shape=per-node"
            )
        if shape == "per-node" and nodes > 1:
            return [
                self._submission(spec, system, min(per, spec.n - part * per), 1, 0, part, per)
                for part in range(nodes)
            ]
        parts = nodes if shape == "array" and nodes > 1 else 0
        wide = nodes if shape == "one" else 1
        return [self._submission(spec, system, spec.n, wide, parts, -1, per)]

    def _submission(
        self,
        spec: LaunchSpec,
        system: System,
        n: int,
        nodes: int,
        parts: int,
        part: int,
        per: int,
        role: str = "engine",
    ) -> Submission:
        name = "job" if part < 0 else f"job{part}"
        script = os.path.join(spec.folder, f"{name}.sh")
        log_file = os.path.join(spec.log_dir or spec.folder, f"{spec.label}.out")
        request = Request(
            name=self.options.job_name,
            parts=parts,
            nodes=nodes,
            slots=min(per, n),
            output=os.path.join(spec.log_dir or spec.folder, f"{spec.label}.job"),
            queue=self.options.queue,
            account=self.options.account,
            walltime=self.walltime,
            warn=self._warn(),
            more=tuple(_bare(line, system.mark) for line in self.options.directive),
            once=role == "controller",  # started again it would be another one, with other keys
        )
        command = engine_command(system, spec.folder, nodes, parts, part, role)
        names = self._names(spec, request, n, per, command, log_file)
        own = self.options.define
        lines = [*system.directives(request), *request.more]
        marked = [f"{system.mark} {line}".strip() for line in lines]
        names["directives"] = "\n".join(marked)
        files = []
        if system.description:
            names["script"] = quote(script)
            names["directives"] = ""
            described = {
                **names,
                "script": _literal(script, system.name),
                "output": _literal(request.output, system.name),
                "directives": "\n".join(marked),
                "parts": parts or 1,
            }
            submitted = os.path.join(spec.folder, f"{name}.sub")
            files.append((submitted, render(system.description, described, system.name)))
            files.append((script, self._script(system, {**own, **names}, bool(parts))))
        else:
            submitted = script
            files.append((script, self._script(system, {**own, **names}, bool(parts))))
        return Submission(
            words=(*system.submit, *(() if system.stdin else (submitted,))),
            stdin=submitted if system.stdin else "",
            files=tuple(files),
            parts=parts,
        )

    def _warn(self) -> int:
        """Return how long before its end a job is warned: less than half of its time.

        Our script becomes the agent; the shell of a user's script would die of the signal.
        """
        if self.options.batch_template:
            return 0
        return min(self.options.drain, self.walltime // 2) if self.walltime else 0

    def _names(
        self, spec: LaunchSpec, r: Request, n: int, per: int, command: str, log_file: str
    ) -> dict[str, Value]:
        return {
            "n": n,
            "nodes": r.nodes * max(r.parts, 1),
            "engines_per_node": per,
            "slots": r.slots,
            "parts": r.parts or None,
            "queue": r.queue or None,
            "walltime": self.options.walltime or None,
            "account": r.account or None,
            "job_name": r.name,
            "profile_dir": quote(spec.profile_dir),
            "cluster_id": spec.cluster_id,
            "work_dir": quote(spec.cwd or os.getcwd()),
            "log_file": quote(log_file),
            "output": quote(r.output),
            "setup": "\n".join(self.options.setup),
            "engine_command": command,
        }

    def _script(self, system: System, names: dict[str, Value], array: bool) -> str:
        path = self.options.batch_template
        if not path:
            text = render(TEMPLATE, names)
            return "\n".join(line for line in text.splitlines() if line) + "\n"
        path = os.path.abspath(os.path.expanduser(path))
        try:
            # Some editors begin a file with a mark that no shell and no system knows.
            with open(path, encoding="utf-8-sig") as file:
                template = file.read()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise TemplateError(f"cannot read the template {path}: {why}") from None
        text = render(template, names, path)
        self._all_used(used(template), array, path)
        if system.early:
            _refuse_late(template, names, system, path)
        if system.first_line and not text.startswith("#!"):
            return f"{system.first_line}\n{text}"
        return text

    def _all_used(self, found: set[str], array: bool, path: str) -> None:
        """Refuse a template that leaves out what was asked for: nobody would notice."""
        o = self.options
        said = [name for name in ("queue", "walltime", "account") if getattr(o, name)]
        missing = [name for name in said if not found & {name, "directives"}]
        missing += ["setup"] if o.setup and "setup" not in found else []
        missing += ["directive"] if o.directive and "directives" not in found else []
        missing += [name for name in o.define if name not in found]
        if missing:
            name = missing[0]
            put = "directives" if name == "directive" else name
            raise TemplateError(
                f"{path} has no ${{{put}}}, so --{name} would have no effect: put it into the"
                " template, or leave the option out"
            )
        if array and "directives" not in found:
            raise TemplateError(
                f"{path} has no ${{directives}}, which makes a job an array: put it in, or use"
                " --shape=per-node"
            )


def _refuse_late(template: str, names: dict[str, Value], system: System, path: str) -> None:
    """Refuse directives of ours below a command: the system would not read them."""
    command = 0
    for number, line in enumerate(template.split("\n"), 1):
        written, found = line.strip(), used(line)
        if command and found and ("directives" in found or written.startswith(system.mark)):
            raise TemplateError(
                f"{path}, line {number}: {system.name} reads no directives after the first"
                f" command, which is in line {command}, so {written} would have no effect: move"
                " it up"
            )
        made = [part.strip() for part in render(line, names, path).split("\n")]
        if any(part and not part.startswith("#") for part in made):
            command = command or number


def engine_command(
    system: System, folder: str, nodes: int, parts: int, part: int, role: str = "engine"
) -> str:
    """Return the command that runs an agent with its engines, for the shell.

    Or that of another ``role`` of :mod:`ipclusterz.apps.launched`.
    """
    import sys

    launched = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "apps", "launched.py"
    )
    if not os.path.isfile(launched):  # reached through the link
        import ipclusterz

        package = os.path.dirname(os.path.abspath(ipclusterz.__file__))
        launched = os.path.join(package, "apps", "launched.py")
    words = [sys.executable, "-P", launched, role, f"--from={folder}"]
    text = " ".join(quote(word) for word in words)
    if nodes > 1:
        return f"{system.spread} sh -c {quote(f'exec {text} --part={system.node_index}')}"
    if parts:
        return f"{text} --part={system.index} --first={system.first}"
    return f"{text} --part={part}" if part >= 0 else text


def _shown(plan: list[Submission]) -> str:
    shown = []
    for made in plan:
        for path, text in made.files:
            shown.append(f"# {path}\n{text.rstrip()}")
        shown.append("$ " + made.shown())
    return "\n\n".join(shown)


def _literal(path: str, system: str) -> str:
    """Return a path as a description takes it: to the line's end, with ``$(`` for macros."""
    refuse(path, system, "\n\r")
    return path.replace("$(", "$(DOLLAR)(")


def _bare(line: str, mark: str) -> str:
    """Return a directive without the mark that a user may have written."""
    return line.removeprefix(mark).strip() if mark else line
