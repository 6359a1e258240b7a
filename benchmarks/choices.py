"""The footnotes: how each peer is used, and what a row measures, so that others can object.

Data, and the choice of what is said of a run.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import peers
from benchmarks.figures import Results
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.rows import QUANTITIES, Quantity, row_of

OF_PEERS: dict[Peer, str] = {
    peers.OURS: "`Cluster(n=4)` as it is by default: every message sealed, every task in the"
    " task database; `load_balanced_view()` for what is balanced, `rc[0]` and `rc[:]` for what"
    " is named. Its modules are compiled, as they are once installed.",
    peers.POOL: "the standard library's, forking, with the default queue; it keeps nothing"
    " and is no cluster, but the floor of what separate processes can do. No worker can be"
    " named, so the rows that need this are empty.",
    peers.LOKY: "`get_reusable_executor(max_workers=4)`, its workers kept from leaving when"
    " idle; no worker can be named.",
    peers.RAY: "`ray.init(num_cpus=4)` without its dashboard; tasks for what is balanced, four"
    " actors for what is named, `ray.get` of the whole list. Chunks:"
    " `ray.util.multiprocessing.Pool`. Array: `ray.put` once and the reference to each actor.",
    peers.DASK: "`LocalCluster(n_workers=4, threads_per_worker=1)` without its dashboard;"
    " `submit(pure=False)`, an actor for what is named, `client.run` for all. Chunks: a bag"
    " with partitions of that size. Array: `scatter(broadcast=True, hash=False, direct=True)`"
    " and `gather(direct=True)`, past the scheduler.",
    peers.IPYPARALLEL: "`Cluster(n=4)` with a load-balanced view, and direct views as ours.",
    peers.ECHO_IPC: "three processes that pass one message of 100 bytes on and back, with"
    " pyzmq over UNIX sockets: neither sealed, packed nor looked into.",
    peers.ECHO_TCP: "the same over TCP on the loopback.",
    peers.COPY: "100 MB copied once into fresh memory, in one process.",
    peers.IMPORTS: "a fresh interpreter that imports pyzmq, msgspec and traitlets.",
}

OF_ROWS: dict[str, str] = {
    "tasks": "each task submitted by itself, then all results collected; as many as keep the"
    " peer busy for {seconds:g} s.",
    "map": "each item a task of its own, each with its own result, checked; {items:,} items"
    " with ipclusterz, with the others as many as they manage in about {map_seconds:g} s:"
    " {counts}.",
    "map in chunks": "{items:,} items, {chunksize:,} in a task, with all alike; 5 a"
    " round, median.",
    "direct trip": "submit to a named engine or actor, wait, repeat; the median of a round.",
    "balanced trip": "submit to whichever is free, wait, repeat; the median of a round.",
    "apply on all": "one call to all four, until all four have answered.",
    "push": "a float64 array of {megabytes:g} MB, another one each time, until each of the four"
    " has it; that each has it, and which, is checked afterwards. {arrays} a round, median.",
    "pull": "the same array back from one of the four, checked.",
    "start": "a script: start four, one result; imports included, timed from outside.",
    "start of all": "the same until each of the four has answered.",
    "start and stop": "the same until the process has ended.",
    "memory": "proportional set size of all processes after {weighed_after} tasks, without the"
    " one that asks (for the pools that is the parent of the workers).",
    "memory of an engine": "the mean of the four, their shared pages counted in parts.",
    "wide ready": "from a fresh process until as many different processes have answered.",
    "wide memory": "all processes of the cluster, divided by the engines.",
    "growth by engines": "each size a fresh cluster on this machine, each engine used before;"
    " then as the row of no-op tasks. Flat is what is looked for: more engines than cores do"
    " no more work.",
    "queue rate": "all engines are kept busy until every task has been submitted, one by one,"
    " and has reached the task scheduler; then they are let go.",
    "queue out": "how many times as long the last tenth of the tasks took as the first. Of"
    " few tasks a tenth is a batch or two, so that this says little below 100,000.",
    "queue in": "the same while they were submitted, nobody working on them.",
    "queue client": "growth of the client's proportional set size, what the script itself"
    " keeps of a task (its AsyncResult) included, divided by the tasks.",
    "queue all": "the hub and all four schedulers; shared pages counted in parts.",
    "hosts there": "two hosts in network namespaces of this machine (the lab of the tests): a"
    " client and the controller on one, 8 engines on the other. {gigabyte:,} bytes of float64,"
    " sealed; the bare pair sends as many, unsealed, in pieces of 1 MiB, in the same round; so"
    " does a bare socket, sealed, whose receiver opens them and writes them to shared memory.",
    "hosts crossed": "an array of {megabytes:g} MB to all 8 engines of the other host: bytes"
    " that left by the network interface, divided by the size of the array.",
    "mixed bound": "{long:,} tasks of 10 s and {short:,} of 1 ms, submitted at once to"
    " {simulated} simulated engines on 4 hosts, after short tasks only; the cores of client,"
    " scheduler and agents under a simulated clock. No schedule beats the bound.",
    "mixed list": "compared with giving each task in turn to the first free engine, at no"
    " cost and with no delay.",
    "mixed idle": "the longest time in which an engine did nothing while a task that had been"
    " submitted had not begun, wherever that task was.",
    "decisions": "processor time of the core of the task scheduler alone: tasks in, decisions"
    " out, results back, confirmed; agents of 100 engines each, twice as many tasks under way"
    " as engines.",
    "decisions tick": "with nothing to do.",
}


def notes(results: Results) -> Iterator[tuple[str, str]]:
    """What was measured or used, and what is to be said of it; only what this run had."""
    shown = {figure.quantity for figure in results.figures}
    for quantity in QUANTITIES:
        if quantity.key in shown and quantity.key in OF_ROWS:
            text = OF_ROWS[quantity.key]
            plan = Plan.of(results.run_of(row_of(quantity))["plan"])
            facts = {**vars(plan), "chunksize": plan.chunksize}
            yield quantity.title, text.format(**facts, counts=_counts(results, quantity))
    names = {figure.peer for figure in results.figures}
    for peer, text in OF_PEERS.items():
        if peer.name in names:
            yield peer.name, text


def _counts(results: Results, quantity: Quantity) -> str:
    counts = [
        f"{figure.peer} {figure.details['count']:,}"
        for figure in results.of(quantity)
        if figure.peer != peers.OURS.name and "count" in figure.details
    ]
    return ", ".join(counts) or "none of them in this run"
