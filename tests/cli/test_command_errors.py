"""Errors of commands, and commands in processes of their own."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import layertap
from tests.support.campaign import everywhere, times
from tests.support.command_files import (
    fails,
    succeeds,
    typed,
)

pytestmark = pytest.mark.one_backend


PROCESS = [sys.executable, "-c", "from layertap.cli import run; run()"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gone.keras", ["gone.keras does not exist", ".h5"]),
        ("images", ["images is a folder"]),
        ("cut.keras", ["cut.keras is cut off"]),
        ("text.keras", ["text.keras is cut off, or is not a model"]),
        ("two.bin", ["ends in .keras, .h5"]),
        ("no_model.weights.h5", ["No model config found"]),
        ("line.keras", ["'line' concatenates nothing", "--outputs"]),
        ("two.keras --before fuson", ["'fuson'", "Did you mean 'fusion'"]),
        ("two.keras --outputs lft", ["'lft'", "Did you mean 'left'"]),
        ("two.keras --import no_such_module", ["--import", "no_such_module"]),
        ("two.keras --import broken", ["broken", "No module named 'no_such_module'"]),
        ("two.keras --rows many", ["--rows", "many", "layertap plan --help"]),
        ("", ["MODEL", "layertap plan --help"]),
    ],
)
def test_models_that_cannot_be_planned(here, words, message):
    line = fails(2, "plan", *words.split())
    for part in message:
        assert part in line


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            "two",
            "gone.npy",
            ["gone.npy is not supported", "package.module:callable"],
        ),
        ("two", "text.txt", ["text.txt is not supported as data"]),
        ("two", "narrow.npy", ["'x'", "(rows, 8)", ", 7)"]),
        ("two", "words.npy", ["'x'", "<U", "float32"]),
        ("two", "none.npy", ["empty"]),
        ("two", "pickled.npy", ["pickled.npy", "Python objects"]),
        ("two", "cut.x.npy", ["cut.x.npy is not a readable .npy file"]),
        ("two", "cut.x.npz", ["cut.x.npz is not a readable .npz file"]),
        ("two", "cut.x.parquet", ["cut.x.parquet is not a readable Parquet file"]),
        ("two", "no_x.parquet", ["'x'", "notes"]),
        ("two", "empty.zarr", ["no input of the model", "Received no columns"]),
        ("pair", "x.zarr", ["'a'", "'x'"]),
        ("pair", "x_array.zarr", ["2 inputs (a, b)"]),
        ("two", "misnamed.npz", ["'x'", "'y'"]),
        ("two", "only_labels.npz", ["no input of the model", "Received 'labels'"]),
        ("pair", "misspelt.npz", ["'b'", "Did you mean 'bb'"]),
        ("pair", "missing.npz", ["'b'", "'a'"]),
        ("pair", "x.npy", ["2 inputs (a, b)"]),
        ("two", "images", ["folder of images", "(None, 8)"]),
        ("of_images", "no_images", ["no_images has no images", ".png", "0 others"]),
        ("of_images", "bad_image", ["bad_image/a.png is not a readable image"]),
        ("two", "no_such_module:f", ["no_such_module can't be imported"]),
        ("two", "sources:", ["sources: is not supported as data"]),
        ("two", "sources:absent", ["sources has no callable 'absent'"]),
        ("two", "sources:constant", ["sources has no callable 'constant'"]),
        ("two", "sources:raises", ["RuntimeError: the data base is away"]),
        ("two", "sources:raises_later", ["RuntimeError: the line went dead"]),
        ("two", "sources:number", ["Received int"]),
        ("two", "sources:empty", ["empty"]),
    ],
)
def test_data_that_cannot_be_saved(here, tmp_path, model, data, message):
    line = fails(2, "save", f"{model}.keras", data, "-o", tmp_path / "v.zarr")
    for part in message:
        assert part in line


@pytest.mark.parametrize("command", ["show", "verify"])
def test_paths_without_a_store(here, tmp_path, command):
    assert "nothing" in fails(2, command, tmp_path / "gone.zarr")
    assert "it is a file" in fails(2, command, "text.txt")
    assert "no zarr.json" in fails(2, command, "images")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_store_of_a_newer_format(here, tmp_path, command):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", "x.npy", "-o", store)
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["layertap"]["format"] = 99
    (store / "zarr.json").write_text(json.dumps(root))
    line = fails(2, command, store)
    assert "format 99" in line
    assert "newer layertap" in line


def test_a_save_to_something_else_loses_nothing(here):
    for path in ("images", "text.txt"):
        fails(2, "save", "two.keras", "x.npy", "-o", path)
    assert Path("text.txt").read_text() == "hello"
    assert len(list(Path("images").rglob("*.png"))) == 3


def test_model_and_data_of_verify_go_together(here, tmp_path):
    line = fails(2, "verify", tmp_path, "--model", "two.keras")
    assert "--model and --data go together" in line


def test_verbose_adds_the_traceback_to_the_line(here):
    result = typed("plan", "gone.keras", "--verbose")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: gone.keras does not exist")


@everywhere
def test_the_demo_and_the_commands_that_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = succeeds("demo", "a [red] folder")
    assert "1,797 rows, with labels" in message
    assert "0 of them found something wrong" in message
    words = [
        shlex.split(line.removeprefix("$ layertap "))
        for line in message.splitlines()
        if line.startswith("$ layertap ")
    ]
    commands = ["plan", "save", "show", "verify", "importance", "report"]
    assert [command for command, *_ in words] == commands
    for again in words[:: times(3, 1)]:
        assert succeeds(*again).replace(" Compared, not computed.", "") in message
    saved = layertap.open("a [red] folder/digits.zarr")
    assert saved.before("fusion")["look_3x3"].shape == (1797, 256)
    page = Path("a [red] folder/digits.html")
    assert "Open a [red] folder/digits.html in a browser" in message
    assert "look_5x5" in page.read_text("utf-8")


@everywhere
def test_a_process_that_succeeds_prints_nothing_else(here, tmp_path):
    words = ["save", "two.keras", "x.npy", "-o", str(tmp_path / "v.zarr")]
    done = subprocess.run([*PROCESS, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(tmp_path / "v.zarr"))


@pytest.mark.processes
def test_ctrl_c_in_mid_save_and_the_same_command_again(here, tmp_path):
    """On a terminal, so that the progress shows."""
    store = tmp_path / "v.zarr"
    words = ["save", "two.keras", "sources:interrupted", "-o", str(store)]
    os.mkfifo("pipe")
    terminal, standard_error = pty.openpty()
    with (
        subprocess.Popen([*PROCESS, *words], stderr=standard_error) as process,
        ThreadPoolExecutor(1) as reader,
    ):
        os.close(standard_error)
        # From the start: a terminal that nobody reads is soon full.
        reading = reader.submit(read_all, terminal)
        assert Path("pipe").read_text() == "rows came"
        process.send_signal(signal.SIGINT)
        shown = reading.result()
    Path("pipe").unlink()
    assert process.returncode == 130
    assert "rows" in shown
    safe = f"Stopped. 24 rows are safe in {store}. The same command resumes after them."
    assert safe in shown.splitlines()[-1]
    assert "Traceback" not in shown
    assert layertap.open(store).rows == 24
    assert "24 rows" in succeeds("show", store)
    succeeds(*words)
    succeeds("save", "two.keras", "sources:interrupted", "-o", tmp_path / "whole.zarr")
    saved, whole = layertap.open(store), layertap.open(tmp_path / "whole.zarr")
    assert saved.rows == whole.rows == 40
    for address in whole:
        assert saved[address][:].tobytes() == whole[address][:].tobytes()


def read_all(terminal: int) -> str:
    """Returns the output to a terminal, until no process can write to it."""
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux' end of a terminal.
            part = b""
        if not part:
            os.close(terminal)
            return shown.decode()
        shown += part


@pytest.mark.parametrize(
    ("name", "message"), [("openvino", "pip install"), ("no_such_backend", "backend")]
)
def test_a_backend_that_is_not_there(here, name, message):
    """Keras knows OpenVINO; it is in none of layertap's environments."""
    done = subprocess.run(
        [*PROCESS, "plan", "two.keras"],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert message in done.stderr


def test_help_imports_nothing_heavy():
    program = textwrap.dedent("""
        import sys

        from layertap.cli import run

        sys.argv[1:] = ["--help"]
        try:
            run()
        finally:
            heavy = {"keras", "numpy", "tensorflow", "jax", "torch", "tensorstore",
                     "pyarrow", "ray"}
            print("imported:", sorted(heavy & set(sys.modules)))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage: layertap" in done.stdout
    assert "\n  layertap show layertap-demo/digits.zarr" in done.stdout
    assert done.stdout.endswith("imported: []\n")
