"""Ends a save that receives a signal with its rows committed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `SystemExit` in the context, so that rows are committed.

    Programs that handle SIGTERM themselves, and threads other than the main one, are
    left alone.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    # Ray's handler raises it, too, but native code of Ray may replace that one.
    of_ray = str(getattr(before, "__module__", "")).startswith("ray.")
    if not main or not (before is signal.SIG_DFL or of_ray):
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        # A forked process, which reads data, has nothing to commit.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # Unless another handler was installed in the context.
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
