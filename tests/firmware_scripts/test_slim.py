"""Slimmed modules are the source's code on the source's lines, and nothing else."""

import ast
import hashlib
import io
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from firmware_scripts import bundle
from firmware_scripts.bundle import SDK_ZIP, build_bundle
from firmware_scripts.slim import slim
from tests.firmware_scripts.workbench import unzipped

ROOT: Final = Path(bundle.__file__).parents[1]
PACKAGES: Final = ("device_sdk", "protocol", "transport")
DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: Everything that could go wrong; ``~`` is a space that must survive.
SOURCE: Final = r'''#!/usr/bin/env python3
# é
"""Words é.

    # more words
"""  # a comment behind words

import os  # why

class Empty(Exception):
    """Only words."""


class OneLine: "é"

class Both:
    r"""Words.
    """

    #: what x is
    x: int = 1  # "no string"

    async def f(self, a: str = "é#1", *, b: str = "") -> str:  # é
        ("Wo"  # inside words
         "rds é")
        if a:
    # a comment at a depth of its own
            return """é  # no comment
    kept as it is~~

  "" """ + f"""{
      a}  # no comment
        {b!r:>{len(a)}} {{
    """ + b  # why
        elif b \
                and a:
            "no docstring"
        def g(): """Words."""  # words

    def h(self):
        "a"; return "this docstring stays"

    def i(self):
        """Words é""" ;
        "no docstring"

for each in (  # why
    1,

    # why
    [2,
        3]
):
	if each:
		"""
		no docstring"""  # two tabs
		os.sep
# the end, without a line feed'''.replace("~", " ")

SLIM: Final = r'''






import os

class Empty(Exception):
 ...


class OneLine:...

class Both:




 x:int=1

 async def f(self,a:str="é#1",*,b:str="")->str:


  if a:

   return """é  # no comment
    kept as it is~~

  "" """+f"""{
      a}  # no comment
        {b!r:>{len(a)}} {{
    """+b
  elif b \
and a:
   "no docstring"
  def g():...

 def h(self):
  "a";return "this docstring stays"

 def i(self):

  "no docstring"

for each in(
1,


[2,
3]
):
 if each:
  """
		no docstring"""
  os.sep
'''.replace("~", " ")


def _documented(tree: ast.Module) -> Iterator[Documented]:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            yield node


def _code(source: str) -> ast.Module:
    """Parse ``source`` and forget its docstrings."""
    tree = ast.parse(source)
    for node in _documented(tree):
        docstring = node.body.pop(0)
        if not node.body and not isinstance(node, ast.Module):
            nothing = ast.Expr(ast.copy_location(ast.Constant(...), docstring))
            node.body.append(ast.copy_location(nothing, docstring))
    return tree


def _lines(tree: ast.Module) -> list[tuple[type[ast.AST], int]]:
    return [(type(node), node.lineno) for node in ast.walk(tree) if hasattr(node, "lineno")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they are now, to compare one state of them only."""
    made = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, made / package)
    return made


@pytest.fixture(scope="module")
def modules(folder: Path) -> dict[str, tuple[str, str]]:
    """Each bundled module's source and what the bundle made of it."""
    built = build_bundle({package: folder / package for package in PACKAGES})
    return {
        path: ((folder / path).read_text(encoding="utf-8"), data.decode())
        for path, data in unzipped(built.files[SDK_ZIP]).items()
        if path.endswith(".py")
    }


def test_all_that_could_go_wrong_becomes_just_this_on_every_python() -> None:
    assert slim(SOURCE) == SLIM
    compile(SLIM, "slim", "exec")


def test_a_bundled_module_is_the_code_of_its_source(modules: dict[str, tuple[str, str]]) -> None:
    assert len(modules) > 50
    for path, (source, made) in modules.items():
        compile(made, path, "exec")
        assert ast.dump(_code(made)) == ast.dump(_code(source)), path
        assert slim(made) == made, path


def test_every_line_number_is_that_of_the_source(modules: dict[str, tuple[str, str]]) -> None:
    for path, (source, made) in modules.items():
        assert made.count("\n") == source.count("\n"), path
        assert _lines(ast.parse(made)) == _lines(_code(source)), path


def test_no_words_are_left(modules: dict[str, tuple[str, str]]) -> None:
    for path, (_, made) in modules.items():
        assert not list(_documented(ast.parse(made))), path
        tokens = list(tokenize.generate_tokens(io.StringIO(made).readline))
        assert not [each for each in tokens if each.type == tokenize.COMMENT], path
        assert {each.string for each in tokens if each.type == tokenize.INDENT} <= {
            " " * depth for depth in range(1, 9)
        }, path


def test_no_module_that_goes_onto_a_device_reads_docstrings(
    modules: dict[str, tuple[str, str]],
) -> None:
    readers = {"__doc__", "getdoc", "getsource", "getcomments", "get_docstring", "doctest"}
    for path, (source, _) in modules.items():
        names = {
            getattr(node, field, None)
            for node in ast.walk(ast.parse(source))
            for field in ("id", "attr", "name", "module", "value")
            if isinstance(getattr(node, field, None), str)
        }
        assert not names & readers, path


@pytest.mark.parametrize("name", ["python3.12", "python3.13", "python3.14"])
def test_another_python_makes_the_same_bytes(
    name: str, folder: Path, modules: dict[str, tuple[str, str]]
) -> None:
    """Tried with those that are on the path, or beside ours as pyenv puts them."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
    python = beside[0] if beside else shutil.which(name)
    if python is None:
        pytest.skip(f"{name} is not here")
    code = (
        "import hashlib, sys; from firmware_scripts.slim import slim\n"
        "for path in sys.argv[1:]:\n"
        "    print(hashlib.sha256(slim(open(path).read()).encode()).hexdigest())"
    )
    done = subprocess.run(
        [python, "-B", "-c", code, *modules],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "pyenv: " in done.stderr:
        pytest.skip(f"{name} is not here")
    assert done.stdout.split() == [
        hashlib.sha256(made.encode()).hexdigest() for _, made in modules.values()
    ], done.stderr


def test_spaces_go_only_where_no_token_is_joined_to_another() -> None:
    source = (
        "x = 1 .real + 2 if not -y else (z, * a [1 : 2])\nprint (f'{ x + 1 } { y !r}' , b 'w')\n"
    )
    source = source.replace("b 'w'", "b'w'")
    made = slim(source)
    assert made == "x=1 .real+2 if not-y else(z,*a[1:2])\nprint(f'{ x + 1 } { y !r}',b'w')\n"
    assert ast.dump(ast.parse(made)) == ast.dump(ast.parse(source))
