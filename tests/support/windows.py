"""Makes a program lack what Python lacks on Windows, and imports layertap then.

Its packages are imported before: they have code of their own for Windows.
"""

import concurrent.futures.thread
import ctypes
import importlib.metadata
import multiprocessing
import os
import subprocess
import sys

import crc32c
import jinja2
import ml_dtypes
import numpy
import rich.console
import rich.progress
import xxhash
import zstandard

IMPORTED = (
    *(concurrent.futures.thread, importlib.metadata, multiprocessing, subprocess),
    *(crc32c, jinja2, ml_dtypes, numpy, rich.console, rich.progress, xxhash, zstandard),
)
# The lists are those of the documentation of Python, "Availability: Unix".
MODULES = "fcntl grp nis posix pty pwd readline resource syslog termios tty"
FUNCTIONS = """
    fchmod fork getpgid getuid geteuid killpg mkfifo posix_fadvise posix_fallocate pread
    preadv pwrite pwritev register_at_fork sched_getaffinity sched_setaffinity sendfile
    setsid statvfs sysconf uname O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK
"""


class Library(ctypes.CDLL):
    """A shared library; the program itself is none."""

    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *args, **kwargs)


def leave_posix():
    """Takes away the modules and functions."""
    sys.platform = "win32"
    sys.modules |= dict.fromkeys(MODULES.split())
    for name in FUNCTIONS.split():
        if hasattr(os, name):
            delattr(os, name)
    ctypes.CDLL = Library
