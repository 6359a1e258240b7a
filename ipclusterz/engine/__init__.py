"""What runs user code: engines, the zygote they are forked from, and how objects travel.

Lives here: the loop of an engine, its namespace and output, the shared page through which
its agent sees what runs, serialisation.  May know: :mod:`ipclusterz.core.message` and
:mod:`ipclusterz.error`.  Must not know: sockets to the outside, keys, the hub, the client.

Every byte imported here is paid for by every engine, so modules import little.
"""
