"""How fast, how soon and how large: ipclusterz beside its peers, in one run.

Run from a checkout::

    python -m benchmarks --quick
    python -m benchmarks --json figures.json

What is measured, always with four engines (workers, processes):

- **tasks/s**: no-op tasks submitted one by one, each result collected.
- **round trip**: submit one no-op task, wait for its result, repeat.
- **start**: a fresh Python process from its start to the first result, imports included;
  then until each engine has answered, and until all is stopped.
- **memory**: proportional set size (PSS) of every process of the cluster.
- **width**: a cluster of 200 engines, each of which must answer.

A machine is never quiet, so what counts are ratios: peers are measured in turns
(interleaved rounds), and a ratio is taken within a round, between neighbours in time.

    __main__      the command line
    phases        what is measured, in which order
    figures       medians, spread, ratios, the bars to reach
    report        the table and the JSON
    environment   the environment for the peers, .bench-venv
    fresh         timing a whole fresh process
    protocol      the line protocol between this program and a peer's process
    processes     finding, weighing and ending the processes of a peer
    machine       the machine, its load, the versions
    peers/        one program per peer, each driven over the line protocol
    first/        one script per peer: start, print the first result, stop

Only peers/ and first/ import what is measured; the rest knows the peers by name.
"""
