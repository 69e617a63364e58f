"""As much of PromQL as is needed to tell which series an expression asks for, and with which labels.

That an expression is valid is for promtool; this only finds names in what is.
"""

import re

TOKEN = re.compile(
    r"""
      (?P<comment>\#[^\n]*)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:ms|[smhdwy]\d*)*)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])
    | (?P<space>\s+)
    """,
    re.X,
)
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}


class Selector:
    """A name and its matchers: (label, operator, value)."""

    def __init__(self, name):
        self.name = name
        self.matchers = []


def tokens(expression):
    at = 0
    while at < len(expression):
        found = TOKEN.match(expression, at)
        if not found:
            raise ValueError(f"cannot read {expression[at:at + 20]!r} in {expression!r}")
        at = found.end()
        if found.lastgroup not in ("comment", "space"):
            yield found.lastgroup, found.group()


def selectors(expression):
    """The selectors of an expression, and the labels that it groups and joins by."""
    read = list(tokens(expression))
    found, labels, at = [], set(), 0

    def text(n):
        return read[n][1] if n < len(read) else ""

    def closing(n, close):
        while text(n) not in (close, ""):
            n += 1
        return n

    while at < len(read):
        kind, word = read[at]
        if kind == "name" and word.lower() in GROUPINGS and text(at + 1) == "(":
            end = closing(at, ")")
            labels.update(word for kind, word in read[at + 2 : end] if kind == "name")
            at = end
        elif kind == "name" and word.lower() not in WORDS | GROUPINGS:
            is_function = text(at + 1) == "(" or (
                text(at + 1).lower() in ("by", "without") and text(at + 2) == "("
            )
            if not is_function:
                found.append(Selector(word))
                if text(at + 1) == "{":
                    end = closing(at, "}")
                    inside = read[at + 2 : end]
                    for n in range(len(inside) - 2):
                        if inside[n][0] == "name" and inside[n + 2][0] == "string":
                            label, operator, value = (word for _, word in inside[n : n + 3])
                            found[-1].matchers.append((label, operator, value[1:-1]))
                    at = end
        elif word == "{":
            raise ValueError(f"a selector without a name in {expression!r}")
        at += 1
    return found, labels
