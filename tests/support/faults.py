"""What fails beneath a store, for real: disks, rights, limits, calls of the system.

What a machine can't do is skipped, and the reason says what it lacks.
"""

import functools
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import environment

NOBODY = 65534


def _mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)


@functools.cache
def why_no_mounts():
    """What keeps this machine from mounting a disk; empty if nothing does."""
    if os.geteuid() != 0:
        return "only root may mount a disk"
    with tempfile.TemporaryDirectory() as folder:
        done = _mount("-t", "tmpfs", "layertap-tests", folder)
        if done.returncode:
            return f"this machine can't mount a disk: {done.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""


@functools.cache
def why_no_strace():
    """What keeps this machine from having calls fail; empty if nothing does."""
    if shutil.which("strace") is None:
        return "this machine has no strace"
    done = subprocess.run(
        ["strace", "-qq", "-e", "inject=fsync:error=EIO", "-o", "/dev/null", "true"],
        capture_output=True,
        text=True,
    )
    return f"strace may not trace: {done.stderr.strip()}" if done.returncode else ""


class Disk:
    """A small disk of its own, in memory.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path):
        self.path = path

    def remount(self, options):
        """Changes `size=`, or `ro` and `rw`."""
        done = _mount("-o", f"remount,{options}", str(self.path))
        assert done.returncode == 0, done.stderr

    @contextmanager
    def filled(self, pages=0):
        """Fills the disk for a time, but for so many pages."""
        ballast = self.path / "ballast"
        free = os.statvfs(self.path)
        size = (free.f_bavail - pages) * free.f_frsize
        with ballast.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def without_inodes(self, left=0):
        """Uses the inodes of the disk for a time, but for so many."""
        ballast = self.path / "ballast"
        ballast.mkdir()
        for number in range(os.statvfs(self.path).f_ffree - left):
            (ballast / str(number)).touch()
        try:
            yield
        finally:
            shutil.rmtree(ballast)


@contextmanager
def small_disk(path, options="size=2m"):
    """Mounts a small disk, if the machine allows, and takes it away again."""
    if why_no_mounts():
        pytest.skip(why_no_mounts())
    path.mkdir()
    done = _mount("-t", "tmpfs", "-o", options, "layertap-tests", str(path))
    assert done.returncode == 0, done.stderr
    try:
        yield Disk(path)
    finally:
        # Lazily: a failed test may still hold a file open.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def unprivileged():
    """Takes root's rights from this process, which then is nobody; gives a folder.

    The folder is nobody's own: those of pytest let nobody in.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, NOBODY, NOBODY)
    group = os.getegid()
    with compiled_code_unwritten():
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
            os.setegid(group)
            shutil.rmtree(folder)


@contextmanager
def compiled_code_unwritten():
    """Keeps JAX from writing compiled code, as it does if a compilation takes long.

    All tests share the folder of compiled code, where `nobody` may not write.
    """
    jax = sys.modules.get("jax")
    if jax is None:
        yield
        return
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextmanager
def few_files(more):
    """Lets this process open so many more files at a time, and no others.

    What is open stays open, and what another thread closes meanwhile is of no use: new
    files get numbers below the limit only, where but these few are taken for good.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(more)]
    for descriptor in free:
        os.close(descriptor)
    # The three standard streams stay open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max([2, *free]) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def failing(calls, paths, program, *arguments):
    """Returns the command of a program in which calls of the system fail.

    Args:
        calls: By call, or calls with commas, what becomes of it, as of strace's
            `inject`. All others are as ever.
        paths: The files, which need not exist yet, of which the calls fail. None for
            all.
        program: Python code.
        arguments: Of the program.
    """
    if why_no_strace():
        pytest.skip(why_no_strace())
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]
    command += ["-e", f"trace={','.join(calls)}"]
    for call, outcome in calls.items():
        command += ["-e", f"inject={call}:{outcome}"]
    for path in paths or ():
        command += ["-P", str(path)]
    return command + python(program, *arguments)


def other_world(*namespaces):
    """Returns the command that puts another in namespaces of its own."""
    command = ["unshare", *namespaces]
    done = subprocess.run([*command, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine has no namespaces: {done.stderr.strip()}")
    return command


def python(program, *arguments):
    """Returns the command of a program."""
    return [sys.executable, "-c", program, *map(str, arguments)]


def run(command):
    """Runs a command to its end, and returns the lines that it wrote."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@contextmanager
def running(command):
    """Starts a command; whatever happens, it does not outlive the `with` statement.

    It writes lines to be read, and goes on when it is given lines.
    """
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        try:
            yield process
        finally:
            # Whoever waits for a line goes on, to its end.
            process.stdin.close()
            for line in process.stdout:
                print(line, end="")
