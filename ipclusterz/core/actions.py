"""What the agent's custody asks of its shell: tuples of three or four, the first says what."""

from __future__ import annotations

from typing import Any

SEND = 0  # (SEND, channel, message)
BATCH = 1  # (BATCH, engine, functions, works): one datagram to an engine
RECLAIM = 2  # (RECLAIM, engine, None): take unread datagrams back, call reclaimed()
SIGNAL = 3  # (SIGNAL, engine, number)
INTERRUPT = 4  # (INTERRUPT, engine, key): interrupt that task (0: whatever runs)
STOP = 5  # (STOP, engine, None): close its socket; it ends by itself
DROP = 6  # (DROP, body, None): this result's body is no longer needed
END = 7  # (END, reason, None): the lease is over, everything ends
REVOKE = 8  # (REVOKE, engine, None): let it begin nothing more of its batch; see revoked()
FETCH = 9  # (FETCH, channel, key, body): bring this body here, then call fetched()
PIECE = 10  # (PIECE, channel, message): a Fetch or Chunk for whoever carries bodies
KILL = 11  # (KILL, engine, key): kill it if it runs that task, and start another

Action = tuple[Any, ...]
