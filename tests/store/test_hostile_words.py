"""The texts of a stranger are shown as text, and nothing is read as code."""

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import layertap
from layertap import cli
from layertap.errors import LayertapError
from tests.support.hostile import COMMANDS, IDENTITY, Store, as_json, make

SOURCE = Path(layertap.__file__).parent
# Clear the screen, ring, go back, rename the window, hide text, reverse the line.
COMMANDS_OF_TERMINALS = "\x1b[2J\x07\r\x08\x1b]0;owned\x07\x9b31m\x7f\u202e\u2066\ud800"
MARKUP = "[red]x[/] [/bold] [link=https://example.com]y[/link] :warning:"
STYLES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "v")
    return Store(tmp_path / "v")


def fill(store, text):
    """Writes a text wherever the plan and the identity have one."""
    ours = store.ours()
    plan = ours["plan"]
    plan["model"] = plan["reduce"] = text
    for join in plan["joins"]:
        join["kind"] = text
        for branch in join["branches"]:
            branch["made_by"] = text
    plan["joins"][0]["path"] = text
    plan["joins"][1]["branches"][0]["alias_of"] = text
    plan["refused"] = [{"address": text, "reason": text}]
    plan["ignored"] = [{"path": text, "kind": text, "reason": text}]
    ours["identity"] |= {"configuration": text, text: text}
    store.put_root(ours)


def shown(path, terminal, words):
    """Returns the output of a command, without its own styles."""
    look = {"TTY_COMPATIBLE": "1", "COLUMNS": "200"} if terminal else {}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in look.items():
            patch.setenv(key, value)
        done = CliRunner().invoke(cli.main, [*words, str(path)], color=terminal)
    assert "--verbose shows where" not in done.output
    assert not terminal or "json" in str(words) or STYLES.search(done.output)
    return STYLES.sub("", done.output) if terminal else done.output


def is_plain(text):
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_terminal_gets_no_commands(store, words, terminal):
    fill(store, COMMANDS_OF_TERMINALS)
    assert is_plain(shown(store.path, terminal, words))


def test_texts_for_programs_have_no_commands(store):
    fill(store, COMMANDS_OF_TERMINALS)
    saved = layertap.open(store.path)
    for text in (
        *(str(saved.plan), repr(saved), repr(saved.plan), repr(dict(saved))),
        *(saved.plan._repr_html_(), repr(saved.before(saved.plan.joins[0].path))),
        *(str(layertap.verify(saved)), repr(next(saved.batches(2)))),
    ):
        assert is_plain(text)
    assert COMMANDS_OF_TERMINALS not in str(saved.plan)


def test_markup_is_shown_as_text(store):
    fill(store, MARKUP)
    made_by = layertap.open(store.path).plan.joins[0].branches[0].made_by
    assert made_by == MARKUP
    screen = " ".join(shown(store.path, True, ["show"]).split())
    assert screen.count(MARKUP) >= 8
    assert f"Plan of {MARKUP}" in screen


NAMES = ["a[/b]", "a[red]b", "[/]", "a:warning:b", "a\x1b[31mb", "a\nb", "a\rb"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_name_of_a_folder_is_shown_as_text(tmp_path, name, words):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    text = shown(path, False, words)
    assert is_plain(text)
    if name.isprintable() and words != ["show"]:
        assert "".join(name.split()) in "".join(text.split())


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours["plan"]["joins"][0].update(dtype=COMMANDS_OF_TERMINALS),
        lambda ours: ours["plan"].update(recipes={COMMANDS_OF_TERMINALS: []}),
        lambda ours: ours["plan"]["recipes"]["outer/in/1"].update(
            addresses=[COMMANDS_OF_TERMINALS]
        ),
        lambda ours: ours["identity"].update(labels=COMMANDS_OF_TERMINALS),
        lambda ours: ours["identity"].update(ids=COMMANDS_OF_TERMINALS),
        lambda ours: ours["arrays"].append(COMMANDS_OF_TERMINALS),
        lambda ours: ours["arrays"].append("a" + COMMANDS_OF_TERMINALS + "b"),
        lambda ours: ours.update(format=COMMANDS_OF_TERMINALS),
        lambda ours: ours.update(
            {
                "writer": {"process": 1, "host": COMMANDS_OF_TERMINALS, "since": ""},
                **{"complete": False, "rows": None},
            }
        ),
    ],
    ids=[
        *("dtype", "recipe", "address", "labels", "ids", "array", "another array"),
        *("format", "writer"),
    ],
)
def test_errors_have_no_commands_for_terminals(store, change):
    ours = store.ours()
    change(ours)
    store.put_root(ours)
    with pytest.raises(LayertapError) as caught:
        layertap.open(store.path)
    assert is_plain(str(caught.value))
    for words in COMMANDS:
        assert is_plain(shown(store.path, False, words))


def test_differences_have_no_commands_for_terminals():
    """The identity of a store differs from that of a run."""
    from layertap.core.tolerance import differences

    theirs = IDENTITY | {"backend": COMMANDS_OF_TERMINALS, COMMANDS_OF_TERMINALS: 1}
    messages = differences(theirs, IDENTITY)
    assert len(messages) == 2
    assert all(map(is_plain, messages))


def test_an_error_fits_on_a_screen(store):
    """The error of a manifest of megabytes does not print it."""
    ours = store.ours()
    ours["plan"]["model"] = ["x" * 10**6]
    store.put_root(ours)
    with pytest.raises(LayertapError) as caught:
        layertap.open(store.path)
    assert len(str(caught.value)) < 10_000


def test_nan_is_not_read_as_json(store):
    """JSON has no NaN, but Python reads and writes it."""
    ours = store.ours()
    ours["identity"]["batch size"] = float("nan")
    store.put("zarr.json", as_json({}))
    store.put_root(ours)
    with pytest.raises(LayertapError, match="NaN is not a number"):
        layertap.open(store.path)


# Nothing is read as code.

CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "jsonpickle"),
    *("marshal", "shelve", "yaml", "codeop", "runpy"),
}


def modules():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 30
    return files


def misdeeds(code):
    """Yields names that could run code from a file."""
    for node in ast.walk(ast.parse(code)):
        names = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [node.module or "", *(alias.name for alias in node.names)]
            case ast.Attribute():
                names = [node.attr]
            case ast.Constant(value=str()):
                names = [node.value]
            case ast.Name() if node.id in CALLS:
                yield node.id
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield "allow_pickle"
        yield from (name for name in names if name.split(".")[0] in MODULES)


# A driver and its workers send each other classes, data and errors by Ray. They
# unpickle nothing that comes from a store or from data.
BETWEEN_PROCESSES = {"driver.py", "ray_session.py", "shared_data.py", "worker.py"}


@pytest.mark.parametrize("file", modules(), ids=lambda file: file.name)
def test_no_code_is_read(file):
    allowed = {"pickle", "cloudpickle"} if file.name in BETWEEN_PROCESSES else set()
    assert not {*misdeeds(file.read_text())} - allowed


CODE = [
    *("eval(x)", "exec(x)", "import pickle", "from pickle import loads", "e = eval"),
    *("np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=y)"),
    *("import yaml.nodes", "np.pickle.loads(x)", "import_module('pickle')"),
]


@pytest.mark.parametrize("code", CODE)
def test_the_check_for_code_finds_code(code):
    assert [*misdeeds(code)]
