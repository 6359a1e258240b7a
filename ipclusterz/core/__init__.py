"""The decisions: pure state machines without input, output, clocks or randomness.

Every core takes messages and ``now`` and leaves actions in ``out``: pairs of a peer and
a message.  Shells in :mod:`ipclusterz.net` carry them; the simulator in the tests carries
them too, in memory and under a clock of its own.
"""
