"""Every message that passes between the parts of a cluster, and nothing else.

Messages are msgspec structs, array-like and tagged, in msgpack: decoding one checks its
shape.  Which messages a peer may send on a channel is a union type (:data:`FROM`), so a
message that its sender's role does not permit fails to decode and reaches no handler.

Payloads are opaque bytes here: nothing in the hub or the schedulers unpickles anything.

A task's ``key`` is one integer: the client's number in the upper 24 bits, its counter in
the lower 40 (:func:`make_key`).  Client numbers are never given out twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import compress, repeat
from typing import Any, ClassVar, Union

import msgspec

PROTOCOL = 1
"""Version of what is said on the wire; peers that differ are refused with both numbers."""

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding somebody's bytes may raise: text may be none, and nesting have no end."""

INLINE = 64 * 1024
"""Payloads up to this many bytes ride in batches; larger ones become a :class:`Body`."""

CHUNK = 1024 * 1024
"""The most of a long answer that travels at once, in bytes."""

PIECE = 2 * 1024 * 1024
"""The same of a body: others wait behind it, and each piece costs a tenth of a millisecond
wherever it passes, whatever its size."""

SMALL = 1024
"""Payloads up to this many bytes may be one of many in a run of like tasks."""

RUN = 256
"""Tasks in one run: what their message itself costs has vanished."""

COUNTER_BITS = 40


class Channel(IntEnum):
    """The seven doors of a controller, in the order of ``--ports``."""

    REGISTRATION = 0
    HEARTBEAT = 1
    QUERY = 2
    DIRECT = 3
    TASK = 4
    CONTROL = 5
    IOPUB = 6


CHANNELS: tuple[Channel, ...] = tuple(Channel)


class Role(IntEnum):
    """What a peer may do; proven by the key in its connector file."""

    CLIENT = 0
    ENGINE = 1


class Op(IntEnum):
    """What an engine (below 32) or an agent (from 32) is asked to do."""

    APPLY = 0  # data: pickled (args, kwargs); the function is named by digest
    MAP = 1  # data: pickled list of argument tuples; result: list of values
    EXECUTE = 2  # data: pickled (code, silent[, colors]); result: what it showed, a dict
    PUSH = 3  # data: pickled dict of names and values
    PULL = 4  # data: pickled name or list of names
    CLEAR = 5  # empties the engine's namespace
    CALL = 6  # data: pickled (function, args, kwargs): functions too large to cache

    INTERRUPT = 32  # interrupt the running task (data: msgpack list of keys, or empty: any)
    ABORT = 33  # give back what has not begun (data: msgpack list of keys, or empty: all)
    STOP = 34  # end the engine after what it runs
    SIGNAL = 35  # data: msgpack signal number
    INSPECT = 36  # result: msgpack map of the engine's state
    CANCEL = 37  # end running tasks (data: msgpack list of keys, and whether to kill)


class Status(IntEnum):
    """How a task ended."""

    OK = 0  # data: the pickled value
    ERROR = 1  # data: an encoded :class:`Failure`
    DIED = 2  # the engine died while it ran; data: an encoded :class:`Failure`
    ABORTED = 3  # cancelled before it began
    LOST = 4  # may have run: its engine's agent is gone; data: an encoded :class:`Failure`
    REFUSED = 5  # could not be given to an engine; data: an encoded :class:`Failure`
    UNMET = 6  # its function says that this engine does not suit it; data: a Failure


def make_key(client: int, counter: int) -> int:
    """Join a client's number and its counter into one task key."""
    return (client << COUNTER_BITS) | counter


def client_of(key: int) -> int:
    """Return the number of the client that made ``key``."""
    return key >> COUNTER_BITS


class Part(msgspec.Struct, array_like=True, gc=False):
    """Base of structs that stand inside messages."""


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages.

    Data only, so none is ever part of a cycle; looking for cycles in tens of thousands that
    wait costs a client a tenth of its time.
    """


class Body(Part):
    """A payload too large for a batch: where it lies and how to open it.

    ``id`` is 16 random bytes and, in hexadecimal, the file's name.  ``sizes`` are the
    bytes of each part: the pickle stream first, then its out-of-band buffers; each part
    starts at a multiple of 64.  ``folder`` is a path that exists on the owner's host, and
    ``proof`` the content of its challenge file, by which a receiver knows that it is on the
    same host and may map the file.  Others fetch it piece by piece.
    """

    id: bytes
    sizes: list[int]
    folder: str
    proof: bytes


class Depend(Part):
    """Tasks that another one waits for: ``all`` of them or any, and which ends count.

    ``known`` tells of those whose end the client knows: key, success, engine (-1: none).
    """

    keys: list[int]
    all: bool = True
    success: bool = True
    failure: bool = False
    known: list[tuple[int, bool, int]] = []


class Options(Part):
    """What few tasks need: kept apart so that the many stay small."""

    retries: int = 0
    engines: list[int] | None = None
    timeout: float = 0.0
    label: str = ""
    after: Depend | None = None
    follow: Depend | None = None


class EngineInfo(Part):
    """One engine as the hub tells of it."""

    id: int
    host: str
    pid: int
    agent: bytes


class Failure(Part):
    """An error as it travels: text for people, and the pickled exception where possible."""

    name: str
    text: str
    traceback: str = ""
    engine: int = -1
    pickled: bytes = b""


# -- tasks: client -> scheduler ------------------------------------------------------------


class Submit(Message, tag=1):
    """A task for whichever engine is free."""

    key: int
    op: int
    fn: bytes
    data: bytes
    body: Body | None = None
    opt: Options | None = None


class Run(Message, tag=7):
    """Like tasks for whichever engines are free: small, without options, keys in a row.

    Task ``i`` is ``key + i`` with ``data[i]``.  Whoever passes a run on may divide it.
    """

    key: int
    op: int
    fn: bytes
    data: list[bytes]


class Request(Message, tag=2):
    """Work for named engines (or a control request): target ``i`` answers as ``key + i``."""

    key: int
    targets: list[int]
    op: int
    fn: bytes
    data: bytes
    body: Body | None = None
    opt: Options | None = None


class Function(Message, tag=3):
    """A pickled function, sent once per link and named by its digest ever after."""

    digest: bytes
    data: bytes


class NeedFunction(Message, tag=4):
    """Asks upstream for a function that is not in the cache (any more)."""

    digest: bytes


class Cancel(Message, tag=5):
    """The client no longer wants these; those that have not begun end as aborted."""

    keys: list[int]


class Received(Message, tag=6):
    """The client has these results; whoever keeps them may let go."""

    keys: list[int]


# -- tasks: scheduler -> agent -------------------------------------------------------------


class Assign(Message, tag=8):
    """One task for one engine; ``attempt`` tells a retry from what came before.

    Unless ``fixed``, the agent may give it to another of its engines that is idle.
    """

    key: int
    attempt: int
    engine: int
    fixed: bool
    op: int
    fn: bytes
    data: bytes
    body: Body | None = None


class Share(Message, tag=16):
    """What one engine is given of a run; as :class:`Assign` where that is not fixed."""

    key: int
    attempt: int
    engine: int
    op: int
    fn: bytes
    data: list[bytes]


class Fan(Message, tag=9):
    """One payload for several engines of one agent: a broadcast travels once."""

    keys: list[int]
    attempt: int
    engines: list[int]
    op: int
    fn: bytes
    data: bytes
    body: Body | None = None


class Recall(Message, tag=10):
    """Asks an agent to give back tasks of these engines that have not begun: at most ``n``."""

    n: int
    engines: list[int]


class Withdraw(Message, tag=11):
    """Cancelled by the client: answer as aborted unless it has begun."""

    keys: list[int]


# -- tasks: agent -> scheduler -> client ---------------------------------------------------


class Result(Message, tag=12):
    """How one attempt of one task ended.

    ``started`` and ``finished`` are seconds since the epoch on the engine's host; ``out``
    is the number of characters of output sent on iopub for it.
    """

    key: int
    attempt: int
    engine: int
    status: int
    data: bytes
    body: Body | None
    started: float
    finished: float
    out: int


class Results(Message, tag=21):
    """Tasks of one client that ended well on one engine, with small values and no output."""

    keys: list[int]
    attempt: int
    engine: int
    data: list[bytes]
    started: list[float]
    finished: list[float]

    body: ClassVar[None] = None

    @property
    def whole(self) -> bool:
        """Whether it is what it says: there is one of each for each key, and all are small."""
        n = len(self.keys)
        return (
            n > 0
            and n == len(self.data) == len(self.started) == len(self.finished)
            and max(map(len, self.data)) <= SMALL
            and len(set(self.keys)) == n
        )

    def part(self, start: int, stop: int) -> Results:
        """Return some of them."""
        return Results(
            self.keys[start:stop],
            self.attempt,
            self.engine,
            self.data[start:stop],
            self.started[start:stop],
            self.finished[start:stop],
        )

    def only(self, keep: list[bool]) -> Results:
        """Return those that ``keep`` says."""
        return Results(
            list(compress(self.keys, keep)),
            self.attempt,
            self.engine,
            list(compress(self.data, keep)),
            list(compress(self.started, keep)),
            list(compress(self.finished, keep)),
        )

    def singly(self) -> Iterator[Result]:
        """Return a :class:`Result` of each."""
        return map(
            Result,
            self.keys,
            repeat(self.attempt),
            repeat(self.engine),
            repeat(0),
            self.data,
            repeat(None),
            self.started,
            self.finished,
            repeat(0),
        )


class Returned(Message, tag=13):
    """Tasks an agent gives back unbegun: as recalled, or because their engine died."""

    tasks: list[tuple[int, int]]
    engine: int
    reason: str


class Down(Message, tag=14):
    """An engine has ended; said on each scheduler's own link, after its last results."""

    engine: int
    reason: str


class RollCall(Message, tag=15):
    """What an agent has, told to a scheduler that is new to it.

    ``held`` are (key, attempt, engine) of tasks not finished, ``engines`` those that are up,
    ``ended`` those that were and are no more.  A long one comes in parts; all but the last
    have ``more``.
    """

    engines: list[int]
    ended: list[int]
    held: list[tuple[int, int, int]]
    more: bool = False


class Waiting(Message, tag=17):
    """Scheduler to client: why tasks cannot progress at the moment (empty: they can)."""

    reason: str


class Retried(Message, tag=19):
    """Scheduler to client: a task is tried again, ``left`` more times at most.

    So that whoever sends it again to a scheduler that is new asks for no more than that.
    """

    key: int
    left: int


class Resumed(Message, tag=18):
    """Client to a scheduler new to it: all counters up to ``upto`` are being sent again."""

    upto: int


# -- output --------------------------------------------------------------------------------


DISPLAY = 4
"""Stream names from here on are pieces of what a task displays: see :class:`Stream`."""

BEGIN = 1
END = 2


class Stream(Message, tag=20):
    """Text that a task wrote: ``name`` 1 is standard output, 2 standard error.

    Names of at least ``DISPLAY`` are pieces of displays, each an object in JSON, in order:
    added to it are ``BEGIN`` in the first piece of one and ``END`` in the last.
    """

    key: int
    engine: int
    name: int
    text: str


# -- bodies between hosts ------------------------------------------------------------------


class Fetch(Message, tag=24):
    """Asks for a piece of a task's or a result's body.

    ``key`` tells schedulers whom to ask: the client that made the task, or the agent that
    keeps its result.  That owner seals the piece with ``secret``, 32 random bytes of this
    transfer only, and ``number``, never used twice in it.  A scheduler on the owner's host
    may answer in its stead, out of ``folder`` if ``proof`` is there (see :class:`Body`); one
    on the host of who asks may write the piece to the file of that name in ``to``, if
    ``to_proof`` is there, and says so (``written``) instead of passing it on.
    """

    key: int
    id: bytes
    offset: int
    size: int
    number: int
    secret: bytes
    folder: str = ""
    proof: bytes = b""
    to: str = ""
    to_proof: bytes = b""


class Chunk(Message, tag=25):
    """Tells of the piece that comes beside it (:class:`Load`), or the ``problem`` with it.

    None comes beside it that is ``written`` already: see :class:`Fetch`.
    """

    key: int
    id: bytes
    offset: int
    number: int
    problem: str = ""
    written: bool = False


class Load:
    """A piece of a body: what tells of it, and its ``data``, sealed for whoever asked.

    Nobody on the way opens or copies the data; it is never part of a message.
    """

    __slots__ = ("chunk", "data")

    def __init__(self, chunk: Chunk, data: bytes | memoryview) -> None:
        self.chunk = chunk
        self.data = data


# -- registration --------------------------------------------------------------------------


class Register(Message, tag=30):
    """A peer makes itself known; an agent asks for ``n`` engine ids or brings its own.

    ``peer`` and ``number`` are empty at first and given when a peer returns to a hub that
    may have forgotten it; who returns shows its ``session`` key, which nobody else knows
    (its id can be seen on the network).  ``job`` names the batch job that an agent runs in,
    ``world`` the MPI job of whose ``size`` ranks its engine is ``rank``.  ``ended`` tells of
    engines that the hub may still believe to be there, and why they are not.  ``turn`` counts
    a peer's attempts: what one that was given up has said may come after the next one's.
    """

    role: int
    protocol: int
    version: str
    host: str
    boot: str
    pid: int
    n: int = 0
    engines: list[int] = []
    peer: bytes = b""
    uuid: str = ""
    job: str = ""
    world: str = ""
    rank: int = -1
    size: int = 0
    session: bytes = b""
    ended: list[tuple[int, str]] = []
    turn: int = 0


class Registered(Message, tag=31):
    """The hub's answer: identity, keys and doors; sent when all schedulers know the peer."""

    peer: bytes
    number: int
    session: bytes
    password: bytes
    engines: list[int]
    addresses: list[list[str]]
    cluster_id: str
    lease: float
    heartbeat: float


class Refused(Message, tag=32):
    """Registration is not possible, and why."""

    text: str


class EnginesUp(Message, tag=33):
    """Engines that are ready for work."""

    engines: list[EngineInfo]


class Known(Message, tag=39):
    """The hub to an agent: who asks from now on is told of these engines."""

    engines: list[int]


class EngineDown(Message, tag=34):
    """An engine has ended; ``reason`` is its death certificate for people."""

    engine: int
    reason: str


class Allocate(Message, tag=35):
    """An agent asks for ``n`` more engine ids."""

    n: int


class Allocated(Message, tag=36):
    """The ids for :class:`Allocate`."""

    engines: list[int]


class Goodbye(Message, tag=37):
    """A peer leaves in good order."""

    reason: str


class Draining(Message, tag=38):
    """An agent takes no more work: what it runs is its last."""

    reason: str


# -- query ---------------------------------------------------------------------------------


class Query(Message, tag=40):
    """A question to the hub."""

    id: int
    what: str
    arg: Any = None


class Revoke(Part):
    """The argument of the question ``revoke``: whose keys, and which peers are dropped."""

    roles: list[str]
    engines: list[int] = []
    clients: list[str] = []


class Answer(Message, tag=41):
    """The hub's answer; ``error`` is empty when all is well.

    A long one comes in pieces of its encoding: all but the last have ``more``.
    """

    id: int
    value: Any
    error: str = ""
    piece: bytes = b""
    more: bool = False


def answers(id: int, value: Any, error: str) -> list[Answer]:
    """Return an answer, in pieces if it is long: a message must fit a frame."""
    encoded = encode(value)
    if len(encoded) <= CHUNK:
        return [Answer(id, value, error)]
    starts = range(0, len(encoded), CHUNK)
    return [
        Answer(id, None, error, encoded[at : at + CHUNK], at + CHUNK < len(encoded))
        for at in starts
    ]


class Engines(Message, tag=42):
    """Engines that came and went; ``full`` says that ``up`` is the whole list."""

    up: list[EngineInfo]
    down: list[tuple[int, str]]
    full: bool = False


class Shutdown(Message, tag=43):
    """The controller ends, and why (also the request of a client that it should)."""

    reason: str


# -- liveness ------------------------------------------------------------------------------


class Beat(Message, tag=50):
    """A sign of life, answered in kind."""

    n: int


class Rekey(Message, tag=51):
    """The role's key was renewed: the secret with which to register from now on."""

    secret: bytes


# -- hub <-> schedulers (monitor) ----------------------------------------------------------


class Hello(Message, tag=60):
    """A scheduler joins its hub and says what it already knows (the hub may be new).

    ``top_number`` and ``top_engine`` are the highest client number and engine id it ever
    heard of, which must not be given out again.  ``lost`` is why an agent went last, and how
    many seconds ago.  ``left`` are clients that have left it work: number and uuid.
    """

    channel: int
    generation: int
    peers: list[Admit]
    engines: list[tuple[int, bytes]]
    top_number: int = 0
    top_engine: int = -1
    lost: tuple[float, str] | None = None
    left: list[tuple[int, str]] = []


class Admit(Message, tag=61):
    """A peer that schedulers shall let in."""

    rev: int
    peer: bytes
    role: int
    number: int
    session: bytes
    password: bytes
    label: str
    uuid: str = ""


class Expel(Message, tag=62):
    """A peer that is gone, with its engines."""

    rev: int
    peer: bytes
    reason: str


class Join(Message, tag=63):
    """Engines that work may be sent to, and the agent they belong to."""

    rev: int
    agent: bytes
    engines: list[int]


class Ack(Message, tag=64):
    """A scheduler has acted on everything up to ``rev``."""

    channel: int
    rev: int


class Tally(Message, tag=65):
    """Counts of one scheduler: per engine (id, outstanding, done, failed), and unassigned."""

    channel: int
    engines: list[tuple[int, int, int, int]]
    unassigned: int


Begun = tuple[int, int, int, bytes | None, float, str | None, bytes | None]
End = tuple[
    int, int, int, float | None, float | None, float, str | None, str | None, bytes | None
]
Ended = tuple[
    int, int, int, int, float | None, float | None, float, str | None, str | None, bytes | None
]
Whole = tuple[
    int,
    int,
    int,
    bytes | None,
    float,
    str | None,
    bytes | None,
    int,
    int,
    int,
    float | None,
    float | None,
    float,
    str | None,
    str | None,
    bytes | None,
]


class Records(Part):
    """What a scheduler saw of tasks, for the task database.

    ``begun`` are (key, channel, op, function's digest, submitted, label, payload), ``ended``
    are (key, attempt, engine, status, started, finished, received, error's name, error's text,
    payload), ``whole`` are both of one task, with one key.  ``functions`` are (digest, pickle),
    ``outputs`` are (key, stream, text).  Times are seconds since the epoch; what is not known
    or not kept is None.  ``size`` counts the bytes of payloads and text.

    ``runs`` and ``results`` are messages of tasks on ``channel``, each with its time (seconds,
    to which ``clock`` is to be added): see recorder.unfold.
    """

    begun: list[Begun] = []
    ended: list[Ended] = []
    whole: list[Whole] = []
    functions: list[tuple[bytes, bytes]] = []
    outputs: list[tuple[int, int, str]] = []
    size: int = 0
    runs: list[tuple[Run, float]] = []
    results: list[tuple[Results, float]] = []
    channel: int = 0
    clock: float = 0.0

    @property
    def count(self) -> int:
        """How many records these are."""
        return (
            sum(len(run.data) for run, _ in self.runs)
            + sum(len(results.keys) for results, _ in self.results)
            + len(self.begun)
            + len(self.ended)
            + len(self.whole)
            + len(self.functions)
            + len(self.outputs)
        )


class Shipment(Message, tag=68):
    """Announces encoded :class:`Records`, which follow in a frame of their own.

    The hub keeps them as they are: to take each task out of them can wait until somebody
    asks, or nothing else is to be done.  It says when they are written if there is a ``serial``
    number.
    """

    count: int
    size: int
    serial: int = 0


class Written(Message, tag=70):
    """What was shipped up to this serial number is on the disk, as far as it can be."""

    serial: int


class Ship(Message, tag=69):
    """The hub ends: send what was gathered for the task database, then acknowledge."""

    rev: int


class Roster(Message, tag=66):
    """The hub has told a scheduler everything it knew: these agents will call the roll.

    ``lost`` says why an agent went a moment ago, if one did: it may have run what clients
    will send again.
    """

    rev: int
    agents: list[bytes]
    lost: str = ""


class Absent(Message, tag=67):
    """An agent does not answer (or does again): send it nothing new meanwhile."""

    rev: int
    agent: bytes
    absent: bool


# -- agent <-> engine (one datagram each) --------------------------------------------------


class Work(Part):
    """One task as an engine gets it; ``fn`` names a function it was given before."""

    key: int
    op: int
    fn: bytes
    data: bytes
    body: Body | None = None


class Batch(Part):
    """What one datagram to an engine holds: functions that are new to it, then tasks."""

    functions: list[tuple[bytes, bytes]]
    tasks: list[Work]


class Outcome(Part):
    """How an engine ended a task."""

    key: int
    status: int
    data: bytes
    body: Body | None
    started: float
    finished: float


class Say(Part):
    """What one datagram from an engine holds.

    The first has ``pid`` set; ``missing`` names functions the engine did not have (the
    tasks that need them come back in ``undone``).
    """

    pid: int
    outcomes: list[Outcome]
    missing: list[bytes] = []
    undone: list[int] = []


class Fork(Part):
    """The agent asks the zygote for one engine; its descriptors ride with the datagram.

    Descriptors, in order: the engine's end of its task socket, standard output, standard
    error, the shared page.  It is bound to ``cores``, if there are any.
    """

    engine: int
    index: int
    bodies: str
    proof: bytes
    token: bytes
    env: dict[str, str]
    cwd: str = ""
    cores: list[int] = []


class ZygoteSay(Part):
    """The zygote is ready (``problem`` empty), or cannot be; ``threads`` counts its threads.

    ``threaded`` names what was preloaded and left some of them running.
    """

    problem: str
    threads: int
    modules: int
    threaded: list[str] = []


# -- packets -------------------------------------------------------------------------------

FromClientQuery = Union[Query, Shutdown]
ToClientQuery = Union[Answer, Engines, Shutdown]
FromClientTask = Union[Run, Submit, Function, Cancel, Received, Resumed, Fetch, Chunk]
FromClientDirect = Union[Request, Function, Cancel, Received, Resumed, Fetch, Chunk]
ToClientWork = Union[Results, Result, NeedFunction, Waiting, Retried, Fetch, Chunk]
FromAgentWork = Union[Results, Result, Returned, Down, RollCall, NeedFunction, Fetch, Chunk]
ToAgentWork = Union[Share, Assign, Fan, Function, Recall, Withdraw, Received, Fetch, Chunk]
FromRegistration = Union[Register, EnginesUp, EngineDown, Allocate, Goodbye, Draining]
ToRegistration = Union[Registered, Refused, Allocated, Known, Shutdown]
FromScheduler = Union[Hello, Ack, Tally, Shipment]
ToScheduler = Union[Admit, Expel, Join, Roster, Absent, Ship, Written]
FromAgentStream = Stream
ToPeerHeartbeat = Union[Beat, Rekey, Shutdown]


def encode(message: Any) -> bytes:
    """Encode a message or part."""
    return _encoder.encode(message)


_encoder = msgspec.msgpack.Encoder()
