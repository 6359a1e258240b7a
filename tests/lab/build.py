"""What a host of the lab is made of: files, mounts, addresses, filter rules.

Everything here is data or text; :mod:`tests.lab.lab` carries it out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.lab.space import PATH, LabError
from tests.running import MODULES

CHECKOUT = Path(__file__).resolve().parents[2]
USERS = {"ada": 40001, "bob": 40002}
TOOLS = "/run/lab/bin"
"""First in every user's path: ``python3`` and our commands as the tests run them."""
CHECK_CODE = f"{TOOLS}/check-code"
CHECK = """#!/bin/sh
# Asked by PAM: is what was typed one of the user's codes?  If so it is used up.
[ "$PAM_TYPE" = auth ] || exit 0
umask 077
code=$(tr -d '\\0')
file=/run/lab/codes/$PAM_USER
grep -qxF "$code" "$file" || exit 1
grep -vxF "$code" "$file" >"$file.new"
cat "$file.new" >"$file"
"""

NETWORKS = {"outside": "198.18.1", "inside": "198.18.2"}
PLACES = {
    "laptop": {"outside": 2},
    "login": {"outside": 1, "inside": 1},
    "node1": {"inside": 11},
    "node2": {"inside": 12},
    "node3": {"inside": 13},
}
NODES = ("node1", "node2", "node3")
ALLOWED = [("laptop", "login")]
ALLOWED += [pair for node in NODES for pair in (("login", node), (node, "login"))]
"""Who may connect to whose port 22."""


@dataclass(frozen=True)
class KeyPair:
    """An ssh key: the private half as OpenSSH's file, the public one as a line."""

    private: str
    public: str

    @classmethod
    def make(cls) -> KeyPair:
        """A fresh Ed25519 key."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return cls(private.decode(), public.decode())


@dataclass
class Plan:
    """All that is made up once for a lab: keys of hosts and users, passwords."""

    host_keys: dict[str, KeyPair] = field(
        default_factory=lambda: {name: KeyPair.make() for name in PLACES}
    )
    user_keys: dict[tuple[str, str], KeyPair] = field(
        default_factory=lambda: {
            (host, user): KeyPair.make() for host in PLACES for user in USERS
        }
    )
    passwords: dict[str, str] = field(
        default_factory=lambda: {user: uuid.uuid4().hex[:12] for user in USERS}
    )

    def known_hosts(self) -> str:
        """Every host by name and by each of its addresses."""
        lines = []
        for name, key in self.host_keys.items():
            names = ",".join([name, *addresses(name).values()])
            lines.append(f"{names} {key.public}\n")
        return "".join(lines)

    def authorized(self, user: str) -> str:
        """A user's keys on all hosts, each of which opens all hosts."""
        keys = [key for (_, owner), key in self.user_keys.items() if owner == user]
        return "".join(f"{key.public} {user}\n" for key in keys)


def addresses(host: str) -> dict[str, str]:
    """A host's address in each network it is in."""
    return {net: f"{NETWORKS[net]}.{last}" for net, last in PLACES[host].items()}


def address_seen(host: str, by: str) -> str:
    """The address of ``host`` in the network it shares with ``by``; else its first."""
    own, others = addresses(host), addresses(by)
    return next((own[net] for net in own if net in others), next(iter(own.values())))


def client_config(host: str) -> str:
    """``~/.ssh/config``: the laptop goes to nodes through login, and nobody is asked."""
    lines = "Host *\n    BatchMode yes\n    ConnectTimeout 10\n"
    if host == "laptop":
        return "Host node*\n    ProxyJump login\n" + lines
    return lines


def sshd_config(options: Mapping[str, str]) -> str:
    """A server's configuration; ``options`` win, because the first value counts."""
    base = {
        "Port": "22",
        "ListenAddress": "0.0.0.0",
        "HostKey": "/etc/ssh/ssh_host_ed25519_key",
        "PidFile": "/run/sshd.pid",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "no",
        "PrintMotd": "no",
        "LogLevel": "VERBOSE",
        "AcceptEnv": "LANG LC_*",
        "Subsystem": "sftp internal-sftp",
        "SetEnv": f"PATH={user_path()} PYTHONPATH={CHECKOUT}",
    }
    lines = [*options.items(), *base.items()]
    return "".join(f"{key} {value}\n" for key, value in lines)


def home(user: str) -> Path:
    """A user's home folder, as the hosts name it."""
    return Path("/root") if user == "root" else Path("/home", user)


def environment(user: str) -> dict[str, str]:
    """What ``user`` has after logging in."""
    return {
        "HOME": str(home(user)),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PATH": user_path() if user != "root" else f"{TOOLS}:{PATH}",
        "PYTHONPATH": str(CHECKOUT),
    }


def user_path() -> str:
    """Where users of the hosts find programs."""
    return f"{TOOLS}:/usr/local/bin:/usr/bin:/bin"


def filter_rules(host: str) -> str:
    """nft: what reaches this host; sets are filled and emptied while the lab runs."""
    pairs = [address_seen(a, by=host) for a, b in ALLOWED if b == host]
    elements = ", ".join(f"{address} . 22" for address in pairs)
    opened = f"elements = {{ {elements} }}" if elements else ""
    return f"""
table inet lab {{
  set cut {{ type ipv4_addr; }}
  set open {{ type ipv4_addr . inet_service; flags interval; {opened} }}
  chain input {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    ip saddr @cut drop
    ct state established,related accept
    ip saddr . tcp dport @open accept
  }}
}}
"""


def stage(folder: Path, host: str, plan: Plan) -> None:
    """Write a host's own files below ``folder``: etc, ssh, home, bin."""
    for path, text in _etc(host, plan).items():
        _write(folder / "etc" / path, text)
    _write(folder / "etc" / "shadow", _shadow(plan), mode=0o600)
    key = plan.host_keys[host]
    _write(folder / "ssh/ssh_host_ed25519_key", key.private, mode=0o600)
    _write(folder / "ssh/ssh_host_ed25519_key.pub", key.public + "\n")
    _write(folder / "ssh/sshd_config", sshd_config({}))
    _write(folder / "ssh/ssh_config", "")
    _write(folder / "boot_id", f"{uuid.uuid4()}\n")
    _write(folder / "filter.nft", filter_rules(host))
    for user, uid in USERS.items():
        _home(folder / "home" / user, host, user, uid, plan)
    python = f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} "$@"\n'
    for name in ("python", "python3"):
        _write(folder / "bin" / name, python, mode=0o755)
    _write(folder / "bin/check-code", CHECK, mode=0o755)
    for name, module in MODULES.items():
        text = python.replace('"$@"', f'-m {module} "$@"')
        _write(folder / "bin" / name, text, mode=0o755)


def _etc(host: str, plan: Plan) -> dict[str, str]:
    hosts = {"localhost": "127.0.0.1", host: address_seen(host, host)}
    for other in PLACES:
        if set(PLACES[other]) & set(PLACES[host]):  # as at real sites, no more than that
            hosts[other] = address_seen(other, by=host)
    users = [f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n" for name, uid in USERS.items()]
    groups = [f"{name}:x:{uid}:\n" for name, uid in USERS.items()]
    passwd = Path("/etc/passwd").read_text()
    if not any(line.startswith("sshd:") for line in passwd.splitlines()):
        users.append("sshd:x:40000:65534::/run/sshd:/usr/sbin/nologin\n")
    return {
        "hosts": "".join(f"{address} {name}\n" for name, address in hosts.items()),
        "hostname": f"{host}\n",
        "machine-id": f"{uuid.uuid4().hex}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
        "resolv.conf": "",
        "pam.d/sshd": "",
        "passwd": passwd + "".join(users),
        "group": Path("/etc/group").read_text() + "".join(groups),
    }


def _shadow(plan: Plan) -> str:
    lines = Path("/etc/shadow").read_text()
    for user, password in plan.passwords.items():
        lines += f"{user}:{_hashed(password)}:20000:0:99999:7:::\n"
    return lines


def _hashed(password: str) -> str:
    """The libc's own hash: Python's module for it is gone from 3.13 on."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes = library.crypt(password.encode(), f"$6${uuid.uuid4().hex[:16]}$".encode())
    return hashed.decode()


def _home(folder: Path, host: str, user: str, uid: int, plan: Plan) -> None:
    key = plan.user_keys[host, user]
    _write(folder / ".ssh/id_ed25519", key.private, mode=0o600)
    _write(folder / ".ssh/id_ed25519.pub", key.public + "\n")
    _write(folder / ".ssh/authorized_keys", plan.authorized(user), mode=0o600)
    _write(folder / ".ssh/known_hosts", plan.known_hosts())
    _write(folder / ".ssh/config", client_config(host))
    _write(folder / ".profile", f"PATH={TOOLS}:$PATH\n")
    (folder / ".ssh").chmod(0o700)
    folder.chmod(0o700)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, uid)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


# -- mounts -----------------------------------------------------------------------------

PRIVATE = {
    "/root": "0711",
    "/home": "0755",
    "/tmp": "1777",
    "/var/tmp": "1777",
    "/var/log": "0755",
    "/dev/shm": "1777",
}
"""What each host has for itself, empty, besides /run and /etc/ssh; with their modes."""


def seen() -> list[Path]:
    """Folders every host must see where the tests see them, none inside another."""
    wanted = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}
    wanted.add(Path(sys.executable).resolve().parents[1])
    wanted |= {Path(entry).resolve() for entry in sys.path if Path(entry or ".").is_dir()}
    found: list[Path] = []
    for path in sorted(wanted):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return [path for path in found if not path.is_relative_to("/usr") and path != Path("/")]


def closed_parents(paths: Iterable[Path]) -> list[str]:
    """Folders on the way to ``paths`` that other users may not pass through."""
    found = []
    for path in paths:
        for parent in reversed(path.parents):
            if str(parent) in PRIVATE or str(parent) in found:
                break
            if not parent.stat().st_mode & 0o001:
                found.append(str(parent))
                break
    return found


def check_readable(paths: Iterable[Path]) -> None:
    """LabError when users of the hosts could not read what they must run."""
    samples = [CHECKOUT / "ipclusterz/__init__.py", Path(os.__file__), *paths]
    for path in samples:
        if not path.stat().st_mode & 0o004:
            raise LabError(
                f"{path} can be read by its owner only, but users of the lab's hosts need it:"
                f" chmod -R o+rX {path if path.is_dir() else path.parents[1]}"
            )


def mount_script(folder: Path, host: str) -> str:
    """What a host's init does: own folders, everything else read-only, own files on top."""
    paths = seen()
    check_readable(paths)
    private = PRIVATE | dict.fromkeys(closed_parents(paths), "0755")
    lines = [
        "umask 022",
        f"hostname {host}",
        "mount -t tmpfs -o mode=0755 tmpfs /run",
        "mkdir -p /run/lab/seen /run/sshd /run/lock /run/user",
        f"cp -a '{folder}'/. /run/lab/",
    ]
    for number, path in enumerate(paths):
        own = f"/run/lab/seen/{number}"
        lines += [f"mkdir {own}", f"mount --bind '{path}' {own}"]
        lines += [f"mount -o remount,bind,ro {own}"]
    lines.append("mount -o remount,bind,ro /")
    lines += [f"mount -t tmpfs -o mode={mode} tmpfs '{p}'" for p, mode in private.items()]
    lines += ["mount -t tmpfs -o mode=0755 tmpfs /etc/ssh", "cp -a /run/lab/ssh/. /etc/ssh/"]
    for number, path in enumerate(paths):
        own = f"/run/lab/seen/{number}"
        lines += [f"mkdir -p '{path}'", f"mount --bind {own} '{path}'", f"umount {own}"]
    for user, uid in USERS.items():
        own = f"/home/{user}"
        lines += [
            f"mkdir {own}",
            f"mount -t tmpfs -o mode=0700,uid={uid},gid={uid} tmpfs {own}",
        ]
        lines += [f"cp -a /run/lab{own}/. {own}/"]
    lines += [
        "for file in $(cd /run/lab/etc && find . -type f); do",
        '  [ ! -e "/etc/$file" ] || mount --bind "/run/lab/etc/$file" "/etc/$file"',
        "done",
        "mount --bind /run/lab/boot_id /proc/sys/kernel/random/boot_id",
        "ip link set lo up",
        "nft -f /run/lab/filter.nft",
        "rm -r /run/lab/seen /run/lab/ssh",
    ]
    return "\n".join(lines)


# -- the machine ------------------------------------------------------------------------

PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}


def lacking() -> str:
    """Why the lab cannot come up on this machine, in one line; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "the lab needs Linux"
    if os.geteuid() != 0:
        return "the lab needs root (namespaces, users and sshd)"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {
        package for name, package in PACKAGES.items() if not shutil.which(name, path=path)
    }
    if missing:
        names = " ".join(sorted(missing))
        return f"the lab needs programs that are not here; Debian: apt-get install {names}"
    return ""
