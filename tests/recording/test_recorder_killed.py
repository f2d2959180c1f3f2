"""A training that is killed and restored has the recording of one that was not."""

import signal
import subprocess
import sys

import pytest

import layertap
from tests.support import training
from tests.support.processes import environment

pytestmark = pytest.mark.processes


def run(folder, moment):
    command = [sys.executable, training.__file__, str(folder), moment]
    return subprocess.run(command, env=environment(), check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["after the backup", "after the record", "in a save"]
)
def test_no_step_is_lost_or_double(tmp_path, moment):
    assert run(tmp_path, moment) == -signal.SIGKILL
    killed = layertap.Recording(tmp_path / "run")
    assert not killed.finished
    assert list(killed) == ([12] if moment == "after the backup" else [12, 24])
    training.killed_training(tmp_path, "never")
    training.killed_training(tmp_path / "whole", "never")
    expected = layertap.Recording(tmp_path / "whole" / "run")
    resumed = layertap.Recording(tmp_path / "run")
    assert list(resumed) == list(expected) == [12, 24, 36, 48]
    assert resumed.epochs == expected.epochs == {12: 1, 24: 2, 36: 3, 48: 4}
    assert (resumed.finished, resumed.missed) == (True, {})
    for step, saved in expected.items():
        for name, array in saved.items():
            assert resumed[step][name][:].tobytes() == array[:].tobytes(), (step, name)
