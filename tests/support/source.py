"""The package's source as trees and texts, for tests of its structure and English."""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "layertap"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Text(NamedTuple):
    """A docstring, a comment or a message, and the line on which it starts."""

    line: int
    words: str


def name_of(path):
    """Returns a path as seen from the root of the repository."""
    return str(path.relative_to(ROOT))


@cache
def tree_of(path):
    """Parses a module."""
    return ast.parse(path.read_text("utf-8"))


def docstring_of(node):
    """Returns the statement that is a node's docstring, if it has one."""
    first = node.body[0] if isinstance(node, DOCUMENTED) and node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first if isinstance(first.value.value, str) else None
    return None


def documented(path):
    """Lists a module's docstrings, each as the node that has it and its statement."""
    nodes = [node for node in ast.walk(tree_of(path)) if docstring_of(node)]
    return [(node, docstring_of(node)) for node in nodes]


def texts_of_module(path):
    """Lists the docstrings, comments and other strings of a module."""
    comments = []
    reader = io.StringIO(path.read_text("utf-8")).readline
    for token in tokenize.generate_tokens(reader):
        if token.type == tokenize.COMMENT:
            comments.append(Text(token.start[0], token.string.lstrip("# ")))
    return _blocks(comments) + [
        Text(node.lineno, _words(node))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant | ast.JoinedStr)
    ]


def _blocks(comments):
    """Joins the comments of adjacent lines."""
    blocks = []
    for comment in comments:
        last = blocks[-1] if blocks else None
        if last and last.line + last.words.count("\n") + 1 == comment.line:
            comment = Text(last.line, f"{last.words}\n{comment.words}")
            blocks.pop()
        blocks.append(comment)
    return blocks


def _words(node):
    """Returns the words of a string or an f-string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(
        _words(part) if isinstance(part, ast.Constant) else "{}" for part in node.values
    )


def texts_of_page(path):
    """Lists the paragraphs of a page, without its code."""
    page = re.sub(
        r"^( *)```.*?^\1```",
        lambda code: "\n" * code[0].count("\n"),
        path.read_text("utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    page = re.sub(r"`[^`\n]+`", "`code`", page)
    line, texts = 1, []
    for paragraph in re.split(r"(\n\s*\n)", page):
        texts.append(Text(line, paragraph))
        line += paragraph.count("\n")
    return texts
