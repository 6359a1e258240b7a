"""Launchers: how a process is started, watched, signalled and ended, here or elsewhere.

What is started is data (:class:`ipclusterz.launchers.base.LaunchSpec`); a launcher only
knows where.  These files are linked into the package: their one import name is
``ipclusterz.launchers``.
"""

if __name__ == "launchers":
    raise ImportError("import this folder as ipclusterz.launchers, not as top-level launchers")
