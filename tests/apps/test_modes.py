"""Options of launchers: said once by the launcher, understood everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from ipclusterz.apps import modes
from ipclusterz.apps.base import run
from ipclusterz.apps.cluster import ClusterApp
from ipclusterz.apps.start import EnginesApp, StartApp
from ipclusterz.cluster import Cluster, SettingError
from ipclusterz.error import LaunchError
from ipclusterz.launchers import base


class MoonOptions(Struct):
    """All kinds there are."""

    queue: Annotated[str, Meta(description="The crater.")] = ""
    per_node: Annotated[int, Meta(description="Engines per crater.")] = 0
    setup: Annotated[list[str], Meta(description="A line first.")] = []
    exclusive: Annotated[bool, Meta(description="Nobody else.", extra={"flags": ("X",)})] = (
        False
    )
    hosts: Annotated[dict[str, int], Meta(extra={"flags": ()})] = {}


class MoonLauncher:
    """On the moon."""

    Options = MoonOptions

    def __init__(self, options: MoonOptions) -> None:
        self.options = options

    def start(self, spec: base.LaunchSpec) -> Any:
        """Fail: there is no air."""
        raise LaunchError(f"no air in {self.options.queue}")


@pytest.fixture(autouse=True)
def moon(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("moon_launcher")
    module.MoonLauncher = MoonLauncher  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moon_launcher", module)
    monkeypatch.setitem(base.BUILT_IN, "moon", ("moon_launcher", "MoonLauncher"))
    modes.options_of.cache_clear()
    modes.configurable.cache_clear()


def started(words: list[str], kind: type[StartApp] = StartApp) -> StartApp:
    app = kind()
    app.initialize(words)
    return app


def profile(ipython_dir: Path, text: str) -> None:
    folder = ipython_dir / "cluster_default"
    folder.mkdir(mode=0o700)
    (folder / "ipclusterz_config.py").write_text(f"c = get_config()\n{text}\n")


LINE = "--queue=tycho --per-node 4 --setup=a --setup=b -X --MoonLauncher.hosts=a=1"
SAID = {
    "queue": "tycho",
    "per_node": 4,
    "setup": ["a", "b"],
    "exclusive": True,
    "hosts": {"a": "1"},
}


@pytest.mark.parametrize("kind", [StartApp, EnginesApp])
def test_the_command_line_has_the_options_of_the_launcher(kind: type[StartApp]) -> None:
    app = started(["--engines=moon", *LINE.split()], kind)
    assert app._options() == SAID
    assert started(["--engines", "moon"], kind)._options() == {}


def test_launchers_get_their_options_checked() -> None:
    launcher = base.get_launcher("moon", {"queue": "tycho", "hosts": {"a": 1}})
    assert isinstance(launcher, MoonLauncher)
    assert launcher.options == MoonOptions(queue="tycho", hosts={"a": 1})
    with pytest.raises(LaunchError, match=r"'moon' has no option 'quue'; the nearest is queue"):
        base.get_launcher("moon", {"quue": "tycho"})
    with pytest.raises(LaunchError, match=r"Expected `int`, got `str` - at `\$.per_node`"):
        base.get_launcher("moon", {"per_node": "many"})
    with pytest.raises(LaunchError, match=r"'local' has no options, but was given queue"):
        base.get_launcher("local", {"queue": "tycho"})


def test_a_profile_chooses_the_launcher_and_sets_it_up(ipython_dir: Path) -> None:
    profile(ipython_dir, "c.StartApp.engines = 'moon'\nc.MoonLauncher.queue = 'tycho'")
    app = started(["--per-node=2"])
    assert app.engines == "moon"
    assert app._options() == {"queue": "tycho", "per_node": 2}
    assert started(["--queue=copernicus"])._options() == {"queue": "copernicus"}
    # The same for clusters that are made from Python.
    plan = Cluster(2, profile="default", options={"per_node": 3})._deployed.plan
    assert plan.launcher == "moon"
    assert plan.options == {"queue": "tycho", "per_node": 3}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "c.MoonLauncher.quue = 'a'",
            "there is no setting c.MoonLauncher.quue; the nearest is",
        ),
        ("c.MonLauncher.queue = 'a'", "there is no setting c.MonLauncher"),
    ],
)
def test_a_mistake_in_a_config_file_is_named(ipython_dir: Path, line: str, text: str) -> None:
    profile(ipython_dir, line)
    with pytest.raises(SettingError, match=text):
        started([])
    with pytest.raises(SettingError, match=text):
        Cluster(2)


def test_options_of_a_launcher_in_the_profile_itself(ipython_dir: Path) -> None:
    profile(ipython_dir, "c.MarsLauncher.queue = 'olympus'")
    source = (
        "from msgspec import Struct\n"
        "class MarsOptions(Struct):\n    queue: str = ''\n"
        "class MarsLauncher:\n"
        "    Options = MarsOptions\n"
        "    def __init__(self, options): self.options = options\n"
        "launcher = MarsLauncher\n"
    )
    folder = ipython_dir / "cluster_default"
    (folder / "launcher_mars.py").write_text(source)
    assert started(["--engines=mars"])._options() == {"queue": "olympus"}
    found = base.get_launcher("mars", {"queue": "a"}, str(folder))
    assert found.options.queue == "a"  # type: ignore[attr-defined]
    (folder / "launcher_mars.py").write_text("1 / 0\n")
    with pytest.raises(LaunchError, match=r"launcher_mars.py: ZeroDivisionError"):
        base.get_launcher("mars", {}, str(folder))
    (folder / "launcher_mars.py").write_text("")
    with pytest.raises(LaunchError, match=r"launcher_mars.py defines no 'launcher'"):
        base.get_launcher("mars", {}, str(folder))
    with pytest.raises(LaunchError, match=r"no launcher 'venus'; known are: .*mars"):
        base.get_launcher("venus", {}, str(folder))


def test_an_option_of_another_launcher_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(ClusterApp, ["start", "--per-node=2"])
    text = "there is no option --per-node without its launcher: it goes with --engines=moon"
    assert text in capsys.readouterr().err


def test_help_begins_with_the_options_of_the_launcher(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run(ClusterApp, ["start", "--engines=moon", "-h"])
    shown = capsys.readouterr().out
    places = [
        shown.index(text)
        for text in ("Options of --engines=moon", "The crater.", "Options\n=", "--regport")
    ]
    assert places == sorted(places)
    assert shown.count("The crater.") == 1


def test_a_mistake_in_a_value_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ClusterApp, ["start", "--engines=moon", "--per-node=many"]) == 2
    assert "--per-node is 'many': it must be an int" in capsys.readouterr().err


@pytest.mark.parametrize("mode", sorted({*base.BUILT_IN, "moon"}))
def test_no_option_of_a_launcher_hides_one_of_the_command(mode: str) -> None:
    words = {word for option in modes.options_of(mode) for word in option.words}
    taken: set[str] = set()
    for names in (*StartApp.aliases, *StartApp.flags):
        taken |= {names} if isinstance(names, str) else set(names)
    assert not words & taken
    assert all(option.help for option in modes.options_of(mode) if option.words)


def test_the_local_launcher_needs_none_of_it() -> None:
    code = (
        "import sys\nfrom ipclusterz.apps.start import StartApp\n"
        "StartApp().initialize(['-n', '4', '--engines=local'])\n"
        "print('ipclusterz.apps.modes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
