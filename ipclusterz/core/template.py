"""Batch script templates: ``${n}`` and its kin filled in, by whole-number arithmetic only.

The rules::

    ${name}  $name     the name's value
    ${n/4}             whole numbers, + - * / // %, parentheses, ceil floor min max
    $$                 a dollar sign, for what the shell shall see: $$HOME, $$(date)

A division that leaves a remainder is an error, unless ``ceil`` or ``floor`` says what is
meant.  So is a name that does not exist: a job whose script is wrong waits an hour in a queue
before it fails.  Nothing is executed.  Knows neither files nor batch systems.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from fractions import Fraction

from ipclusterz.error import LaunchError

Value = int | str | None
"""A name's value; None for one that exists, but was not given."""

_MARK = re.compile(r"\$(?:(\$)|\{([^{}\n]*)\}|([A-Za-z_]\w*)|)")
_BRACES = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)([^{}\n]*)\}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_LONGEST = 200  # characters of an expression
_LARGEST = 10**15

_PEERS_NAMES = {
    "program_and_args": "engine_command",
    "engine_cmd": "engine_command",
    "cluster_dir": "profile_dir",
}
"""What ipyparallel's templates call what has another name here."""


class TemplateError(LaunchError):
    """A template that cannot be filled in; the message names file, line and name."""


def render(text: str, names: Mapping[str, Value], file: str = "the template") -> str:
    """Return ``text`` with all names and expressions replaced by their values.

    Raises TemplateError, which names ``file``, the line, and what is wrong there.
    """
    _refuse_braces(text, names, file)

    def value(found: re.Match[str]) -> str:
        dollar, expression, name = found.groups()
        if dollar:
            return "$"
        try:
            if expression is not None:
                return _evaluated(expression.strip(), names)
            if name:
                return _value(name, names)
            raise _Wrong(_lone(text, found))
        except _Wrong as wrong:
            line = text.count("\n", 0, found.start()) + 1
            raise TemplateError(f"{file}, line {line}: {wrong}") from None

    return _MARK.sub(value, text)


def used(text: str) -> set[str]:
    """Return the names that a template speaks of.

    >>> sorted(used("-l nodes=${n/4} -q $queue $$HOME"))
    ['n', 'queue']
    """
    found: set[str] = set()
    for dollar, expression, name in _MARK.findall(text):
        if not dollar:
            found.update(_NAME.findall(expression) if expression else [name])
    return found - {"", *_FUNCTIONS}


class _Wrong(Exception):
    """What is wrong at one place."""


def _refuse_braces(text: str, names: Mapping[str, Value], file: str) -> None:
    """Recognise a template in ipyparallel's style, in which ``{n}`` is a name."""
    if used(text) & set(names):
        return
    for found in _BRACES.finditer(text):
        name, rest = found.groups()
        ours = _PEERS_NAMES.get(name, name)
        if ours in names:
            line = text.count("\n", 0, found.start()) + 1
            raise TemplateError(
                f"{file}, line {line}: {found[0]} is ipyparallel's way to write it; here it is"
                f" ${{{ours}{rest}}}, and a dollar sign for the shell is $$"
            )


def _lone(text: str, found: re.Match[str]) -> str:
    following = text[found.end() : found.end() + 12].split("\n")[0]
    if following.startswith("{"):
        return f"${following}... is not closed on its line"
    return f"${following}: a dollar sign for the shell is written $$, here $${following}"


def _value(name: str, names: Mapping[str, Value]) -> str:
    if name not in names:
        raise _Wrong(_unknown(name, names))
    value = names[name]
    if value is None:
        raise _Wrong(f"${{{name}}} has no value: give --{name.replace('_', '-')}=...")
    return str(value)


def _unknown(name: str, names: Mapping[str, Value]) -> str:
    from difflib import get_close_matches  # only when something is wrong

    near = get_close_matches(name, sorted(names), 1)
    known = (
        f"the nearest is ${{{near[0]}}}" if near else f"there are {', '.join(sorted(names))}"
    )
    return (
        f"there is no name {name!r} for ${{{name}}}; {known}; a variable of the shell is"
        f" written $${name}"
    )


def _evaluated(expression: str, names: Mapping[str, Value]) -> str:
    if _NAME.fullmatch(expression):
        return _value(expression, names)
    written = f"${{{expression}}}"
    if not expression or len(expression) > _LONGEST:
        raise _Wrong(f"{written} is no expression: write a name, or like ${{n/4}}")
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _Wrong(
            f"{written} is no expression; whole numbers and + - * / // % ( ) ceil floor min max"
            f" may stand here; ${{...}} of the shell is written $${{...}}"
        ) from None
    result = _Arithmetic(written, names).of(tree)
    if result.denominator != 1:
        raise _Wrong(
            f"{written} leaves a remainder ({result.numerator}/{result.denominator});"
            f" write ${{ceil({expression})}} to round up"
        )
    return str(result.numerator)


class _Arithmetic:
    """Evaluates one expression; everything but whole-number arithmetic is refused."""

    def __init__(self, written: str, names: Mapping[str, Value]) -> None:
        self._written = written
        self._names = names

    def of(self, node: ast.expr) -> Fraction:
        """Return the value of a part of the expression."""
        result = self._of(node)
        if abs(result) > _LARGEST:
            raise _Wrong(f"{self._written} becomes too large")
        return result

    def _of(self, node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value)
        if isinstance(node, ast.Name):
            return self._number(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self.of(node.operand)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return self._joined(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._called(node.func.id, [self.of(one) for one in node.args])
        part = ast.unparse(node)
        raise _Wrong(
            f"{self._written}: {part!r} is not allowed; whole numbers and + - * / // % ( ) ceil"
            " floor min max are"
        )

    def _number(self, name: str) -> Fraction:
        text = _value(name, self._names)
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise _Wrong(f"{self._written}: {name} is {text!r}, which is no whole number")
        return Fraction(int(text))

    def _joined(self, node: ast.BinOp) -> Fraction:
        left, right = self.of(node.left), self.of(node.right)
        operation = type(node.op)
        if operation is ast.Add:
            return left + right
        if operation is ast.Sub:
            return left - right
        if operation is ast.Mult:
            return left * right
        if right == 0:
            raise _Wrong(f"{self._written} divides by zero")
        if operation is ast.Div:
            return left / right
        return Fraction(left // right) if operation is ast.FloorDiv else left % right

    def _called(self, name: str, values: list[Fraction]) -> Fraction:
        if name in ("ceil", "floor") and len(values) == 1:
            (value,) = values
            return Fraction(-(-value // 1) if name == "ceil" else value // 1)
        if name in ("min", "max") and values:
            return min(values) if name == "min" else max(values)
        raise _Wrong(
            f"{self._written}: {name}() is not there; ceil(x), floor(x), min(...), max(...) are"
        )


_OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_FUNCTIONS = frozenset(("ceil", "floor", "min", "max"))
