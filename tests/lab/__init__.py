"""The lab: five hosts on this machine, each with a network, users and an sshd of its own.

::

     laptop ──── outside ──── login ──── inside ──┬── node1
              198.18.1.0/24          198.18.2.0/24 ├── node2
                                                   └── node3

Each host is a set of Linux namespaces (network, mounts, processes, host name, IPC), so it
has its own loopback, its own ``/home``, ``/root``, ``/tmp``, ``/run``, ``/dev/shm`` and
``/var/log``, its own process numbers, ``/etc/hosts``, ``/etc/passwd``, ``/etc/ssh`` and boot
id.  The rest of the file system is that of the machine, read-only, so the interpreter of the
tests and this checkout are found on every host under the same path.

As at real sites, a packet filter (nft) lets through: laptop to login:22, login to each
node:22, each node to login:22, and answers.  All else is dropped without a word.  The
addresses are from a range that is set aside for laboratories and never routed.

In a test::

    def test_across(lab: Lab) -> None:
        done = lab.laptop.run(["ssh", "node1", "hostname"])  # as ada, through login
        assert done.stdout == "node1\n"
        with lab.cut("laptop", "login"):
            ...
        with lab.login.sshd.options(AllowTcpForwarding="no"):
            ...

By hand: ``python -m tests.lab`` and ``python -m tests.lab enter laptop``.

Nothing can be left behind: all of it exists only as long as its processes do, the kernel
ends those with the process that made the lab, and nothing is written outside.

| file | what is in there |
|---|---|
| ``lab.py`` | :class:`Lab`: all hosts, cuts, slow links, opened ports |
| ``host.py`` | :class:`Host`: run commands, files, processes |
| ``sshd.py`` | :class:`Sshd`: options, restarts, sessions, host keys |
| ``build.py`` | what each host's files and mounts are |
| ``space.py`` | namespaces: made, entered, ended |
| ``fixtures.py`` | the ``lab`` fixture |
| ``proxy.py`` | :class:`Proxy`: faults on the loopback, without root and without the lab |

It knows ssh and Linux, and of ipclusterz only what its commands are called.
"""
