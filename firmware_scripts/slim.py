"""Code only: a module without docstrings and comments, each statement on the line it had.

A third of our source is words and columns for people who read the repository. Nobody reads on a
device, which pays for them in storage and in every transfer; so the bundle leaves them at home
(docs/adr/0020). What is removed leaves an empty line: a newline each, next to nothing once
deflated, and a traceback from the field names lines of the repository's files.

The result depends on the source alone, not on the Python that makes it: ``ast`` says which
strings are docstrings, ``tokenize`` where comments, blocks and strings begin and end. (Not
``ast.unparse``: its text and its lines differ from one Python to the next. Not ``.pyc``: it
serves one Python only.)
"""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

#: Stands where a body was nothing but its docstring.
NOTHING: Final = "..."

_BLANK: Final = {tokenize.COMMENT, tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=512)  # who flashes many devices bundles the same modules each time
def slim(source: str) -> str:
    """Return ``source`` without docstrings, comments and the spaces around operators.

    A level is indented by one column; what continues a statement on further lines starts at the
    first. Line numbers, the contents of other strings and all else stay. ``__doc__`` becomes None.
    Raises SyntaxError.
    """
    lines = source.split("\n")
    tree = ast.parse(source)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    levels, inside = _levels(tokens), _inside_strings(tokens)
    _drop_comments(lines, tokens)
    _drop_docstrings(lines, tree)
    _drop_spaces(lines, tokens)
    return "\n".join(
        line if row in inside else _indented(line, levels.get(row, 0))
        for row, line in enumerate(lines, 1)
    )


def _indented(line: str, level: int) -> str:
    text = line.lstrip()
    return " " * level + text if text else ""


def _levels(tokens: Iterable[tokenize.TokenInfo]) -> dict[int, int]:
    """Return how deep the statement lies that begins on a row, for each row on which one does."""
    levels = {}
    level, begins = 0, True
    for token in tokens:
        if token.type in {tokenize.INDENT, tokenize.DEDENT}:
            level += 1 if token.type == tokenize.INDENT else -1
        elif token.type == tokenize.NEWLINE:
            begins = True
        elif begins and token.type not in {tokenize.NL, tokenize.COMMENT}:
            levels[token.start[0]] = level
            begins = False
    return levels


def _inside_strings(tokens: Iterable[tokenize.TokenInfo]) -> set[int]:
    """Return the rows whose first column lies inside a string: nothing may move there."""
    rows: set[int] = set()
    begun: list[int] = []
    for token in tokens:
        # Since Python 3.12 an f-string is several tokens, from FSTRING_START to FSTRING_END.
        name = tokenize.tok_name[token.type]
        if name == "STRING" or name.endswith("STRING_START"):
            begun.append(token.start[0])
        if name == "STRING" or name.endswith("STRING_END"):
            rows.update(range(begun.pop() + 1, token.end[0] + 1))
    return rows


def _drop_comments(lines: list[str], tokens: Iterable[tokenize.TokenInfo]) -> None:
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()


def _drop_docstrings(lines: list[str], tree: ast.Module) -> None:
    for docstring, stand_in in _docstrings(tree):
        first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
        before = lines[first].encode()[: docstring.col_offset].decode()  # ast counts bytes
        lines[first:last] = [(before + stand_in).rstrip(), *[""] * (last - first - 1)]


def _drop_spaces(lines: list[str], tokens: Sequence[tokenize.TokenInfo]) -> None:
    """Drop what stands between two tokens of a row one of which is an operator."""
    for left, right in reversed(list(_neighbours(tokens))):
        row, start, end = left.end[0] - 1, left.end[1], right.start[1]
        if tokenize.OP not in {left.type, right.type} or not lines[row][end:]:
            continue
        if left.type == tokenize.NUMBER and right.string.startswith("."):
            continue  # 1 .real
        lines[row] = lines[row][:start] + lines[row][end:]


def _neighbours(
    tokens: Sequence[tokenize.TokenInfo],
) -> Iterator[tuple[tokenize.TokenInfo, tokenize.TokenInfo]]:
    """Yield the tokens that have spaces between them, from left to right; none of an f-string."""
    depth = 0
    for left, right in pairwise(tokens):
        name = tokenize.tok_name[left.type]
        depth += name.endswith("STRING_START") - name.endswith("STRING_END")
        gap = left.end[0] == right.start[0] and left.end[1] < right.start[1]
        if gap and depth == 0 and {left.type, right.type}.isdisjoint(_BLANK):
            yield left, right


def _docstrings(tree: ast.Module) -> Iterator[tuple[ast.Expr, str]]:
    """Yield each docstring's statement, and what must stand there instead."""
    for node in ast.walk(tree):
        if not isinstance(node, _DOCUMENTED):
            continue
        match node.body:
            case [ast.Expr(ast.Constant(str())) as docstring]:
                yield docstring, "" if isinstance(node, ast.Module) else NOTHING
            # One that shares its last line with a statement (after a semicolon) stays.
            case [ast.Expr(ast.Constant(str())) as docstring, second, *_] if (
                second.lineno != docstring.end_lineno
            ):
                yield docstring, ""
