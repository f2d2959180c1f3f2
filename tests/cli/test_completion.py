"""Words are completed at the prompts of bash, zsh and fish."""

import os
import shutil
import subprocess
import sys
import textwrap
from typing import get_args

import click
import pytest

from layertap.cli import completion, main
from layertap.planning.join_filter import Kind
from tests.support.command_files import succeeds
from tests.support.export_stores import plan_of, store

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a store, to work in, whose program is `layertap`."""
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "v.zarr", plan_of(["float32", "int8"]))
    (tmp_path / "x.npy").touch()
    program = tmp_path / "bin" / "layertap"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom layertap.cli import run\n\nrun()\n", "utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def in_bash(*words):
    """Returns the words that bash offers for the last word of a line."""
    script = """
        eval "$(_LAYERTAP_COMPLETE=bash_source layertap)"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _layertap_completion layertap
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", textwrap.dedent(script), "bash", "layertap", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


VALUES = ["of_float32/out", "of_int8/out"]


OUTPUTS = ["of_float32", "of_int8"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exp", ["export"]),
        ("export v.zarr x.npz --add", ["--address"]),
        ("export v.zarr x.npz --address of_", VALUES),
        ("export --address of_int8/out v.zarr --address of_f", VALUES[:1]),
        ("export v.zarr x.npz --address none", []),
        ("export gone.zarr x.npz --address of_", []),
        ("export x.npy x.npz --address of_", []),
        ("diff v.zarr v.zarr --pair of_i", ["of_int8", "of_int8/out"]),
        ("diff v.zarr v.zarr --pair of_float32/out of_int8/", VALUES[1:]),
        ("save m.keras x.npy -o v.zarr --outputs of_", OUTPUTS),
        ("save m.keras x.npy --joins m", ["multiply", "maximum", "minimum"]),
        ("plan m.keras --reduce a", ["avg"]),
        ("plan m.keras --dtype b", ["bfloat16"]),
    ],
)
def test_words_of_bash(folder, line, expected):
    assert in_bash(*line.split()) == expected


def test_names_of_a_plan_that_was_made(here, folder, cache, monkeypatch):
    monkeypatch.chdir(folder)
    model = folder / "two.keras"
    shutil.copy(here / "two.keras", model)
    line = f"save {model.name} x.npy --before fu".split()
    assert in_bash(*line) == []
    succeeds("plan", model)
    assert in_bash(*line) == ["fusion"]
    assert len(list(cache.glob("layertap/plans/*.json"))) == 1
    # A plan of another version of the file is not the plan of this one.
    os.utime(model, (0, 0))
    assert in_bash(*line) == []


def test_few_plans_are_kept_and_none_is_needed(here, cache, monkeypatch):
    monkeypatch.setattr(completion, "_MOST_PLANS", 2)
    for moment in (1, 2, 3):
        os.utime("two.keras", (moment, moment))
        succeeds("plan", "two.keras")
    assert len(list(cache.glob("layertap/plans/*.json"))) == 2
    shutil.rmtree(cache)
    cache.touch()
    succeeds("plan", "two.keras")


def test_a_path_without_an_end_is_no_error(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    completion.remember(str(loop), plan_of([]))


def offered(shell, words):
    """Returns what layertap answers a shell."""
    line = ["layertap", *words]
    numbers = {"zsh": len(words), "fish": words[-1]}
    done = subprocess.run(
        ["layertap"],
        env={
            **os.environ,
            "_LAYERTAP_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": " ".join(line if shell == "zsh" else line[:-1]),
            "COMP_CWORD": str(numbers[shell]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_values_and_files_in_other_shells(folder, shell):
    values = offered(shell, ["export", "v.zarr", "x.npz", "--address", "of_"])
    assert [name for name in VALUES if name in values] == VALUES
    # The shell itself completes the names of files and folders.
    for words, kind in {
        ("show", "v"): "dir",
        ("export", "v.zarr", "x"): "file",
        ("verify", "v.zarr", "--model", "m"): "file",
        ("verify", "v.zarr", "--data", "x"): "file",
        ("report", "v.zarr", "-o", "p"): "file",
        ("report", "v.zarr", "--against", "v"): "dir",
        ("report", "v.zarr", "--inputs", "x"): "file",
        ("save", "m.keras", "x.npy", "-o", "v"): "dir",
    }.items():
        answer = offered(shell, list(words))
        assert answer.split()[0].split(",")[0] == kind


def test_each_shell_has_a_script(folder):
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run(
            ["layertap"],
            env={**os.environ, "_LAYERTAP_COMPLETE": f"{shell}_source"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"_LAYERTAP_COMPLETE={shell}_complete" in script


def test_an_address_with_an_at_sign_is_one_word_of_bash(folder):
    script = (
        'eval "$(_LAYERTAP_COMPLETE=bash_source layertap)"; echo "$COMP_WORDBREAKS"'
    )
    done = subprocess.run(
        ["bash", "-c", f"COMP_WORDBREAKS='\"@:='; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == '":=\n'


def test_completion_imports_nothing_heavy(folder):
    program = """
        import os, sys

        os.environ["_LAYERTAP_COMPLETE"] = "bash_complete"
        os.environ["COMP_WORDS"] = "layertap export v.zarr x.npz --address of_"
        os.environ["COMP_CWORD"] = "5"
        from layertap.cli import run

        try:
            run()
        finally:
            heavy = {"keras", "tensorflow", "jax", "torch", "tensorstore", "pyarrow"}
            print("imported:", sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plain,of_int8/out" in done.stdout
    assert done.stdout.endswith("imported: []\n")


def test_all_kinds_of_join_are_known():
    assert {*completion.JOINS, "*", "all"} == set(get_args(Kind))
    option = next(o for o in main.commands["plan"].params if o.name == "joins")
    context = click.Context(main.commands["plan"])
    offers = [item.value for item in option.shell_complete(context, "")]
    assert offers == [*completion.JOINS, "all"]
