"""What a pickled function is called, read from its pickle without loading it.

For people who look at what an engine runs.  Pure, and safe with anybody's bytes: opcodes are
listed, never executed.
"""

from __future__ import annotations

from collections.abc import Iterator

_OPCODES = 2000
"""Opcodes that are looked at: names stand near the beginning."""

_WRAPPERS = ("builtins", "functools", "cloudpickle", "_operator", "copyreg")
"""Modules whose names say how something was made rather than what it is."""


def function_name(data: bytes) -> str:
    """Return the name of the function in a pickle, like ``module.name``; '' if unclear."""
    first: list[str] = []  # the first thing that was named by its module, if any
    pushed: list[str] = []
    try:
        for name, text in _events(data):
            if name == "text":
                if pushed and pushed[-1] == "__qualname__":
                    return text
                pushed.append(text)
            elif name == "global" and not first and len(pushed) >= 2:
                module, what = pushed[-2:]
                if module.partition(".")[0] not in _WRAPPERS:
                    first = [module, what]
                elif what in _PLAIN:
                    first = [what]
    except Exception:  # a damaged pickle has no name
        pass
    if first[:1] == ["__main__"]:
        del first[0]
    return ".".join(first)


_PLAIN = frozenset("abs all any bool bytes dict float int list max min print str sum".split())
"""Builtins that people call on engines by themselves."""


def _events(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield ('text', string) for each string that is pushed, ('global', '') for each name."""
    import pickletools  # 10 ms, and only for those who look

    memo: dict[int, str] = {}
    last = ""
    for count, (op, argument, _) in enumerate(pickletools.genops(data)):
        if count > _OPCODES:
            return
        if "UNICODE" in op.name:
            last = str(argument)
            yield "text", last
        elif op.name == "MEMOIZE":
            memo[len(memo)] = last
            last = ""
        elif op.name in ("BINGET", "LONG_BINGET"):
            if text := memo.get(int(argument or 0)):
                yield "text", text
        elif op.name == "STACK_GLOBAL":
            last = ""
            yield "global", ""
        else:
            last = ""
