"""Errors of Python are reported in the words of the command line."""

import click
import pytest

from layertap.cli import main
from layertap.cli.options import amount
from layertap.cli.wording import in_command_words, line_of
from layertap.errors import OptionError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Pass `batch_size=`, or pad=True.", "Pass --batch-size, or --pad longest."),
        ("Pass pad=512, the largest size.", "Pass --pad 512, the largest size."),
        ("`rows` is too small.", "--rows is too small."),
        ('before="fusion" is unknown.', '--before "fusion" is unknown.'),
        ("Pass overwrite=True to replace it.", "Pass --overwrite to replace it."),
        ("`metrics` need a loss.", "--metric need a loss."),
        (
            "Repeat save(model, data, path, before=…, for_head=True).",
            "Repeat layertap save MODEL DATA -o STORE --before … --for-head.",
        ),
        (
            "Repeat save(model, (x, y), path).",
            "Repeat layertap save MODEL DATA -o STORE, with labels in DATA.",
        ),
        (
            "Pass data: plan(model, like=x).",
            "Pass data: layertap save MODEL DATA -o STORE.",
        ),
        ("pad=False and `progress=` stay.", "pad=False and `progress=` stay."),
        ("Pass strings as `ids=`.", "Pass strings as --ids."),
    ],
)
def test_arguments_become_options_and_calls_become_commands(message, line):
    assert in_command_words(message) == line


# Options that the commands have alone.
OWN = ["as_json", "folder", "help", "import", "out", "output", "progress", "quiet"]
OWN += ["a", "b", "ray", "recompute", "store", "trust_model", "verbose"]
PLURAL = {"metric": "metrics", "pair": "pairs", "address": "addresses"}


@pytest.mark.parametrize("name", main.commands)
def test_every_option_that_python_has_too_is_translated(name):
    command = main.commands[name]
    with click.Context(command):
        for option in command.params:
            if option.name not in OWN and isinstance(option, click.Option):
                argument = PLURAL.get(option.name, option.name)
                assert in_command_words(f"`{argument}`") == option.opts[-1]


def test_only_options_of_the_running_command_are_translated():
    message = 'Compile it: loss="mse". Or split(model, before=…), or overwrite=True.'
    assert in_command_words(message).startswith('Compile it: --loss "mse".')
    with click.Context(main.commands["save"]):
        assert in_command_words(message) == (
            'Compile it: loss="mse". Or split(model, --before …), or --overwrite.'
        )
    with click.Context(main.commands["importance"]):
        call = "Repeat save(model, data, path, for_head=True), or before=…."
        assert in_command_words(call) == (
            "Repeat layertap save MODEL DATA -o STORE --for-head, or before=…."
        )


def test_the_target_of_gradients_has_the_name_of_the_option_that_was_passed():
    context = click.Context(main.commands["save"])
    for passed in (["gradients"], ["attributions"], ["gradients", "attributions"]):
        context.params = dict.fromkeys(passed, "sum")
        with context:
            options = " or ".join(f"--{name}" for name in passed)
            assert in_command_words("`of` is invalid.") == f"{options} is invalid."


def test_notes_of_jax_are_left_out():
    error = OptionError("`pad=` is too small.")
    error.add_note("--------------------\nFor simplicity, JAX has removed frames.")
    assert line_of(error) == "--pad is too small."


def test_an_error_with_its_notes_is_one_line():
    error = OptionError("`pad=` is too small.\nPass more.")
    error.add_note("In the batch at row 3.")
    assert line_of(error) == "--pad is too small. Pass more. In the batch at row 3."


def test_other_errors_stay_as_they_are_and_show_their_type():
    line = "ValueError: rows=3 (--verbose shows where)"
    assert line_of(ValueError("rows=3")) == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", 1000),
        ("2 GB", 2 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5k", 1500),
        ("1TiB", 2**40),
        ("64B", 64),
        ("512KB", 512_000),
        ("2gb", 2 * 10**9),
    ],
)
def test_amounts_of_memory(text, expected):
    assert amount(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "1 XB", "-1", "1e9", "1,000", "0", "0.2"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(click.BadParameter, match="as 2GB"):
        amount(text)
