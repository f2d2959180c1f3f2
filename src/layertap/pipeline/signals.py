"""How a save ends that is told to end: with its rows committed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Has SIGTERM raise `SystemExit` while it lasts, as Ctrl-C raises its error.

    By itself it ends Python at once, and what was computed since the last commit is
    lost. Left alone are programs that handle it themselves, and threads other than the
    main one, which Python lets handle no signal.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    # Ray's own raises it too, but native code of its may be in its place.
    of_ray = str(getattr(before, "__module__", "")).startswith("ray.")
    if not main or not (before is signal.SIG_DFL or of_ray):
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        # A process that was forked meanwhile, to read data, has nothing to commit.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # Unless somebody has put another one in its place.
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
