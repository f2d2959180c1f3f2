"""Processes that are forked from one that has imported what they need."""

import atexit
import functools
import json
import subprocess
import sys

from tests.support.faults import python
from tests.support.processes import environment

_PROGRAM = """
import json, os, sys, traceback
{setup}
for line in sys.stdin:
    name, arguments = json.loads(line)
    child = os.fork()
    if not child:
        try:
            print(json.dumps(["returned", globals()[name](*arguments)]), flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(json.dumps(["ended", os.waitpid(child, 0)[1]]), flush=True)
"""


class Forks:
    """Runs functions of a program, each in a process of its own.

    Args:
        setup: Python code, run once. It defines the functions.
        arguments: The program's arguments.
    """

    def __init__(self, setup, *arguments):
        self._process = subprocess.Popen(
            python(_PROGRAM.replace("{setup}", setup), *arguments),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def call(self, name, *arguments):
        """Returns a function's result. Asserts that its process ended well."""
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        result = None
        for line in self._process.stdout:
            if line.startswith('["returned"'):
                result = json.loads(line)[1]
            elif line.startswith('["ended"'):
                assert json.loads(line)[1] == 0, f"{name}: see standard error"
                return result
            else:
                print(line, end="", file=sys.stderr)
        raise AssertionError(f"{name}: the program ended")

    def close(self):
        """Ends the program."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@functools.cache
def shared(setup):
    """Starts a program that lives as long as this process."""
    forks = Forks(setup)
    atexit.register(forks.close)
    return forks
