"""What all commands share: profile, config files, log level, errors and exit codes.

Settings come from, in rising order: defaults, the profile's config files, ``--config``, the
command line.  A command's ``start`` returns its exit code; errors are printed as one
message and turned into a code here, in one place.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NoReturn

from traitlets import Bool, TraitError, Unicode
from traitlets.config import Application
from traitlets.config.loader import ArgumentError, KVArgParseConfigLoader

from ipclusterz._version import __version__
from ipclusterz.apps import output
from ipclusterz.cluster import AlreadyRunning, SettingError
from ipclusterz.cluster.settings import no_such_setting
from ipclusterz.error import ClusterError, KernelError
from ipclusterz.files import planted, quote
from ipclusterz.launchers.base import fields_of
from ipclusterz.paths import BadName, ProfileDir, profile_dir


class ExitCode(IntEnum):
    """What commands return; documented for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ALREADY_RUNNING = 10
    ALREADY_STOPPED = 11
    NO_CLUSTER = 12
    INTERRUPTED = 130


class AlreadyStopped(ClusterError):
    """The cluster is not running (any more)."""


class NoSuchCluster(ClusterError):
    """There is no trace of such a cluster."""


_CODES: tuple[tuple[type[KernelError], ExitCode], ...] = (
    (SettingError, ExitCode.USAGE),
    (BadName, ExitCode.USAGE),
    (AlreadyRunning, ExitCode.ALREADY_RUNNING),
    (AlreadyStopped, ExitCode.ALREADY_STOPPED),
    (NoSuchCluster, ExitCode.NO_CLUSTER),
)

Aliases = dict[Any, Any]


class Loader(KVArgParseConfigLoader):
    """Traitlets' command line, but an option nobody knows is an error naming the nearest."""

    def _create_parser(self) -> None:
        super()._create_parser()
        give_up = self.parser.error

        def error(message: str) -> NoReturn:
            # At the end of the line it is told as lacking its value, with a dash inside as
            # an argument nobody wants.
            message = re.sub(r"^argument --\w+\.(\w+)(?=:)", self._typed, message)
            found = re.match(r"(?:argument|unrecognized arguments:) --([\w.-]+)", message)
            unknown = found and "." not in found[1] and found[1] not in self._names()
            give_up(self._no_option(found[1]) if found and unknown else message)

        self.parser.error = error  # type: ignore[method-assign]

    def _handle_unrecognized_alias(self, arg: str) -> None:
        self.parser.error(self._no_option(arg))

    def _typed(self, found: re.Match[str]) -> str:
        """Return 'argument' and an option as it is typed, not as config files have it."""
        for name, meant in self.aliases.items():
            where = meant if isinstance(meant, str) else meant[0]
            if where.endswith(f".{found[1]}"):
                names = (name,) if isinstance(name, str) else name
                return "argument " + "/".join(f"{'-' * min(len(n), 2)}{n}" for n in names)
        return found[0]

    elsewhere: Callable[[str], list[str]] | None = None
    """Returns the launchers that have an option which the command has not."""

    def _no_option(self, name: str) -> str:
        from difflib import get_close_matches  # only when something is wrong

        if self.elsewhere is not None and (owners := self.elsewhere(name)):
            where = ", ".join(f"--engines={owner}" for owner in owners)
            return f"there is no option --{name} without its launcher: it goes with {where}"
        short = len(name) == 1
        near = [] if short else get_close_matches(name, sorted(self._names()), 1)
        dashes = "-" if short else "--"
        hint = f"; the nearest is --{near[0]}" if near else ""
        return f"there is no option {dashes}{name}{hint}; -h lists the options"

    def _names(self) -> set[str]:
        """Return the options of the command, without their dashes."""
        keys = [*self.aliases, *self.flags]
        return {name for key in keys for name in ((key,) if isinstance(key, str) else key)}


class BaseApp(Application):
    """A command that works with a profile."""

    version = Unicode(__version__)
    raise_config_file_errors = Bool(True)

    profile = Unicode(
        "default", help="The profile: its folder is cluster_NAME in the IPython folder."
    ).tag(config=True)
    profile_dir = Unicode("", help="The profile's folder, as a path.").tag(config=True)
    ipython_dir = Unicode(
        "", help="The IPython folder; empty: $IPYTHONDIR, else ~/.ipython."
    ).tag(config=True)
    cluster_id = Unicode(
        "", help="Tells several clusters of one profile apart; empty: the main one."
    ).tag(config=True)
    config_file = Unicode("", help="A further config file, read after the profile's.").tag(
        config=True
    )
    work_dir = Unicode("", help="The folder to work in; empty: the current one.").tag(
        config=True
    )
    log_to_file = Bool(True, help="Write logs into the profile's log folder.").tag(config=True)
    clean_logs = Bool(False, help="Remove old logs first.").tag(config=True)
    quiet = Bool(False, help="Print errors only.").tag(config=True)

    config_names: tuple[str, ...] = ("ipclusterz_config",)
    warn_root = False

    aliases: Aliases = {  # noqa: RUF012 - as traitlets has it
        ("p", "profile"): ("BaseApp.profile", "The profile's name. [default]"),
        ("profile-dir", "cluster-dir"): ("BaseApp.profile_dir", "The profile's folder."),
        "ipython-dir": ("BaseApp.ipython_dir", "The IPython folder. [~/.ipython]"),
        "cluster-id": ("BaseApp.cluster_id", "Tells clusters of one profile apart."),
        "config": ("BaseApp.config_file", "A further config file."),
        "work-dir": ("BaseApp.work_dir", "The folder to work in."),
        "log-level": ("Application.log_level", "DEBUG, INFO, WARN, ERROR, or a number."),
    }
    flags: Aliases = {  # noqa: RUF012
        **Application.flags,
        "debug": ({"Application": {"log_level": logging.DEBUG}}, "Log everything."),
        ("q", "quiet"): ({"BaseApp": {"quiet": True}}, "Print errors only."),
        "log-to-file": ({"BaseApp": {"log_to_file": True}}, "Write logs. [yes]"),
        "no-log-to-file": ({"BaseApp": {"log_to_file": False}}, "Write no logs."),
        "clean-logs": ({"BaseApp": {"clean_logs": True}}, "Remove old logs first."),
    }

    _parsing = True
    _origin = "the command line"

    # -- settings --------------------------------------------------------------------------

    def initialize(self, argv: Any = None) -> None:
        """Read the command line, then config files, then the command line's word again."""
        self.log.addFilter(_said_better)
        super().initialize(argv)
        if self.subapp is not None:
            return
        if self.extra_args:
            words = " ".join(self.extra_args)
            raise SettingError(f"{self.name} takes no such argument: {words}; see -h")
        self._check_config("the command line")
        self._read_config_files()
        self._parsing = False
        if self.work_dir:
            self._enter(self.work_dir)
        if self.clean_logs:
            self._clean_logs()
        if self.warn_root and hasattr(os, "geteuid") and os.geteuid() == 0:
            output.complain(
                f"{self.name}: running as root: whoever holds the client's connector file"
                " can do anything on this machine"
            )

    @property
    def folder(self) -> ProfileDir:
        """The profile's folder, existing or not."""
        if self.profile_dir:
            return ProfileDir(self.profile_dir)
        return profile_dir(self.profile, self.ipython_dir or None)

    def _selection(self) -> str:
        """Return the options that name this very cluster, to be pasted into a shell."""
        found = ""
        if self.profile_dir:
            found += f" --profile-dir={quote(self.folder.path)}"
        elif self.profile != "default":
            found += f" --profile={quote(self.profile)}"
        if self.ipython_dir and not self.profile_dir:
            found += f" --ipython-dir={quote(os.path.abspath(self.ipython_dir))}"
        if self.cluster_id:
            found += f" --cluster-id={quote(self.cluster_id)}"
        return found

    @property
    def log_dir(self) -> str:
        """Where processes write their logs, '' for nowhere."""
        return self.folder.log if self.log_to_file else ""

    @property
    def level(self) -> str:
        """The log level for processes: INFO unless something else was said."""
        if "log_level" not in self.config.get("Application", {}):
            return "INFO"
        level = self.log_level
        return str(logging.getLevelName(level) if isinstance(level, int) else level)

    def was_said(self, trait: str) -> bool:
        """Tell whether a setting was given, be it with its default's value."""
        names = [kind.__name__ for kind in type(self).__mro__]
        return any(trait in self.config[name] for name in names if name in self.config)

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> Loader:
        usage = f"{self.name} [options]"
        return Loader(
            argv, aliases, flags, classes=classes, log=self.log, prog=self.name, usage=usage
        )

    def _read_config_files(self) -> None:
        for name in self.config_names:
            there = os.path.exists(os.path.join(self.folder.path, f"{name}.py"))
            if there and (problem := planted(self.folder.path)):
                raise SettingError(problem)
            self._read_config_file(name, self.folder.path)
        if self.config_file:
            path = os.path.abspath(os.path.expanduser(self.config_file))
            if not os.path.isfile(path):
                raise SettingError(f"there is no config file {path}")
            self._read_config_file(*reversed(os.path.split(path)))
        self.update_config(self.cli_config)

    def _read_config_file(self, name: str, folder: str) -> None:
        path = os.path.join(folder, name if name.endswith(".py") else f"{name}.py")
        self._origin = f"the config file {path}"
        try:
            self.load_config_file(name, path=folder)
        except (TraitError, SettingError):
            raise
        except Exception as error:  # a config file is a program: anything may happen in it
            raise SettingError(
                f"the config file {path} cannot be used: {type(error).__name__}: {error}"
            ) from error
        self._check_config(f"the config file {path}")

    def _check_config(self, origin: str) -> None:
        """Raise SettingError for a setting that no command has: a typing error, most likely."""
        if not self.config:
            return
        known = _settings()
        for section, values in self.config.items():
            fields = fields_of(section, self.folder.path) if section not in known else None
            if fields is not None:
                known[section] = set(fields)
            if section not in known:
                text = no_such_setting("", section, known)
                raise SettingError(f"{origin} cannot be used: {text}")
            for name in values:
                if name not in known[section]:
                    text = no_such_setting(section, name, known[section])
                    raise SettingError(f"{origin} cannot be used: {text}")

    def _enter(self, path: str) -> None:
        try:
            os.chdir(os.path.expanduser(path))
        except OSError as error:
            raise SettingError(f"work-dir {path}: {error.strerror}") from None

    def _clean_logs(self) -> None:
        folder = self.folder.log
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if ".log" in name or ".err" in name:
                os.unlink(os.path.join(folder, name))

    def _wrong(self, error: TraitError | ArgumentError) -> str:
        """Return what is wrong with a setting, and where it was made."""
        typed = self._origin == "the command line"
        if typed and (found := re.match(r"Error loading argument [\w.]+\.(\w+)=", str(error))):
            return f"{self._option(found[1])} is given more than once and takes one value"
        text = (
            _in_words(error, lambda _, trait: self._option(trait))
            if typed
            else _in_words(error)
        )
        return text if typed else f"{self._origin} cannot be used: {text}"

    def _option(self, trait: str) -> str:
        """Return a setting as it is typed."""
        for names, meant in self.aliases.items():
            where = meant if isinstance(meant, str) else meant[0]
            if where.endswith(f".{trait}"):
                name = names if isinstance(names, str) else max(names, key=len)
                return f"--{name}" if len(name) > 1 else f"-{name}"
        return f"--{trait.replace('_', '-')}"

    # -- life ------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line, at once, unless ``--quiet``; without a reader the work goes on."""
        if not self.quiet:
            output.show(text)

    def exit(self, exit_status: Any = 0) -> None:
        """End the command; for a bad setting, of which traitlets only says so, say where."""
        error = sys.exc_info()[1]
        if exit_status == 1 and self._parsing:
            if isinstance(error, (TraitError, ArgumentError)):
                raise SettingError(self._wrong(error)) from error
            exit_status = ExitCode.USAGE
        super().exit(exit_status)


_WRONG_TYPE = re.compile(
    r"The '(?P<name>\w+)' trait of an? (?P<kind>\w+) instance expected (?P<wanted>.+),"
    r" not the (?:\w+ )?(?P<value>.+)\.",
    re.DOTALL,
)


def _in_file(kind: str, name: str) -> str:
    """Return a setting as config files spell it."""
    return f"c.{kind}.{name}"


def _typed(app: Application) -> Callable[[str, str], str]:
    """Return how to spell settings of which not all are the app's own: as they were made."""
    while app.subapp is not None:
        app = app.subapp

    def spell(kind: str, name: str) -> str:
        if isinstance(app, BaseApp) and name in app.cli_config.get(kind, {}):
            return app._option(name)
        return _in_file(kind, name)

    return spell


def _in_words(error: Exception, spell: Callable[[str, str], str] = _in_file) -> str:
    """Return what traitlets says of a value in a user's words; ``spell`` names the setting."""
    found = _WRONG_TYPE.fullmatch(str(error))
    if found is None:
        return str(error)
    name = spell(found["kind"], found["name"])
    return f"{name} is {found['value']}: it must be {found['wanted']}"


def _said_better(record: logging.LogRecord) -> bool:
    """Keep traitlets' own words back where an error of ours follows."""
    return not str(record.msg).startswith(("Bad config encountered", "Config option"))


def _settings() -> dict[str, set[str]]:
    """Return the settings of each class that a config file may speak of."""
    from ipclusterz.apps import cluster  # it knows all commands, and they know this module

    found: dict[str, set[str]] = {}
    waiting: list[Any] = [cluster.ClusterApp, BaseApp]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ not in found:
            found[kind.__name__] = set(kind.class_trait_names(config=True))
            waiting += [base for base in kind.__mro__ if hasattr(base, "class_trait_names")]
            waiting += kind.__subclasses__()
    return found


def run(command: type[BaseApp], argv: Sequence[str] | None = None) -> int:
    """Run a command to its end; return the exit code."""
    output.complete()
    app = command()
    try:
        app.initialize(list(argv) if argv is not None else None)
        code = app.start()  # type: ignore[func-returns-value] # ours return their code
        return int(code or 0)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.FAILED
    except (KernelError, TraitError, KeyboardInterrupt) as error:
        return explain(app.subapp or app, error)


def explain(app: Application, error: BaseException) -> int:
    """Print what happened as one message and return the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    code, text = ExitCode.FAILED, str(error)
    if isinstance(error, TraitError):
        code, text = ExitCode.USAGE, _in_words(error, _typed(app))
    elif isinstance(error, KernelError):
        code = next((c for kind, c in _CODES if isinstance(error, kind)), code)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
        return code
    output.complain(f"{app.name}: {text}")
    return code
