"""The environment of programs that tests start."""

import os
import sys
from pathlib import Path

_ABSENT = str(Path(__file__).with_name("absent"))


def environment(**more):
    """What is imported here can be imported there, but for what slows Keras down."""
    paths = [_ABSENT, *filter(None, sys.path)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more
