"""How fast, how soon and how large: ipclusterz beside its peers, in one run.

Run from a checkout::

    ./dev bench --quick
    ./dev bench --write-docs            # docs/benchmarks.md and .json, docs/plots
    ./dev bench --write-docs --only queue,hosts --rounds 3      # the other rows are kept

What is measured, always with four engines (workers, processes), stands in rows; how each
peer is used, in choices, which are the footnotes of every report.

A machine is never quiet, so what counts are ratios.  In each round every peer has a turn in
which nothing else of ours runs; a ratio is taken within a round, between neighbours in time,
and how busy others kept the machine is noted for each round.

    __main__      the command line
    rows          what is measured, in which unit
    plan          how much of it
    cases         what figures are called that belong to no peer
    bench         the rounds: whose turn it is
    turns         one peer's turn: how each row is measured
    books         values, failures, giving up
    figures       medians, quartiles, ratios
    bars          what must be reached, and what is wished for
    choices       the footnotes
    report        the text for a terminal
    markdown      the tables for a page
    plots         a picture for each row, by matplotlib
    progress      the line on a terminal while it runs
    environment   the environment for the peers, .bench-venv
    fresh         timing a whole fresh process
    protocol      the line protocol between this program and a peer's process
    processes     finding, weighing and ending the processes of a peer
    machine       the machine and its load
    work          the tasks that are measured
    alone/        one module per row in which ipclusterz has no peer beside it
    simulated     the cores under a simulated clock, for two of these rows
    pages         pages of which a part is written by a program
    cputime       processor time of threads, from /proc
    profile       a command of its own: where each microsecond of a task goes
    samples       in which functions and libraries, by py-spy and perf
    scale         a command of its own: what each host and engine more costs the controller
    across        a command of its own: the routes through SSH
    peers/        one program per peer, each driven over the line protocol
    first/        one script per peer: start, print the first result, stop

Only peers/, first/, simulated, profile and scale import what is measured; the rest knows the
peers by name.
"""
