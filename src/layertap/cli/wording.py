"""Errors of Python in the words of the command line, each as one line."""

import re
from collections.abc import Mapping

import click


def line_of(error: Exception) -> str:
    """Returns the message of an error as one line, in the words of the command line."""
    from layertap.errors import LayertapError

    message = str(error)
    for note in notes_of(error):
        message = f"{message.removesuffix('.')}. {note}"
    message = " ".join(message.split())
    if isinstance(error, LayertapError):
        return in_command_words(message)
    return f"{type(error).__name__}: {message} (--verbose shows where)"


def notes_of(error: BaseException) -> list[str]:
    """Returns the notes that were added to an error, without those of JAX."""
    notes: list[str] = getattr(error, "__notes__", [])
    return [note for note in notes if not note.startswith("---")]


# Arguments of Python that have an option; `of` is either target.
_NAMES = (
    "before|outputs|joins|for_head|dtype|reduce|gradients|attributions|baseline|steps"
    "|labels|ids|preprocess|skip_bad|batch_size|pad|compression|memory|overwrite"
    "|workers|num_gpus|rows|loss|metrics|branches|repeats|seed|pairs|addresses"
    "|inputs|against|projection|model|data|of"
)
_TARGETS = ("gradients", "attributions")
_SINGULAR = {"metrics": "metric", "pairs": "pair", "addresses": "address"}
_OPTIONS = {
    name: "--" + _SINGULAR.get(name, name).replace("_", "-")
    for name in _NAMES.split("|")
}
_OPTION = re.compile(
    rf"`(?P<bare>{_NAMES})`|`?\b(?P<name>{_NAMES})="
    r"(?P<value>True\b|\d+|'[^']*'|\"[^\"]*\"|…)?(?!\w)`?"
)
# Calls of Python that have a command.
_CALL = re.compile(
    r"\b(?:layertap\.)?(?:plan\(model, like=x\)"
    r"|save\(model, (?:data|(?P<labels>\(x, y\))), path(?P<options>[^()]*)\))"
)


def in_command_words(message: str) -> str:
    """Replaces arguments and calls of Python by options and commands.

    Example:
    >>> in_command_words("Pass `batch_size=`, pad=True or before='fusion'.")
    "Pass --batch-size, --pad longest or --before 'fusion'."
    >>> in_command_words("Save again: save(model, data, path, for_head=True).")
    'Save again: layertap save MODEL DATA -o STORE --for-head.'
    """

    def call(match: re.Match[str]) -> str:
        options = _with_options((match["options"] or "").replace(",", ""), _OPTIONS)
        labels = ", with labels in DATA" if match["labels"] else ""
        return f"layertap save MODEL DATA -o STORE{options}{labels}"

    return _with_options(_CALL.sub(call, message), _options_of_command())


def _with_options(message: str, known: Mapping[str, str]) -> str:
    """Replaces arguments of Python by known options."""

    def option(match: re.Match[str]) -> str:
        name, value = match["bare"] or match["name"], match["value"]
        value = "longest" if (name, value) == ("pad", "True") else value
        if name not in known:
            return match[0]
        return known[name] if value in (None, "True") else f"{known[name]} {value}"

    return _OPTION.sub(option, message)


def _options_of_command() -> dict[str, str]:
    """Returns the options of the running command by their names in Python."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return _OPTIONS
    present = {option for one in ctx.command.params for option in one.opts}
    known = {name: option for name, option in _OPTIONS.items() if option in present}
    targets = [f"--{name}" for name in _TARGETS if ctx.params.get(name)]
    return {**known, "of": " or ".join(targets)} if targets else known
