"""Ctrl-C and termination: finish the step, save, then stop."""

import signal
from contextlib import contextmanager

from utils.distributed import ranks


class Stopped(KeyboardInterrupt):
    """A stop was requested in a block that need not be finished first."""


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets a flag; the second acts at once.

    torchrun repeats every signal, and kills what does not end by itself: under it the second
    signal is ignored. Calling the object tells whether a stop was requested.
    """

    def __init__(self):
        self.requested, self._immediate, self._previous = False, False, {}

    def __call__(self):
        return self.requested

    @contextmanager
    def at_once(self):
        """A block that is simply repeated later: a stop, before or in it, raises `Stopped`."""
        if self.requested:
            raise Stopped
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception):
        self._restore()

    def _handle(self, number, frame):
        if self.requested:
            return
        self.requested = True
        if self._immediate:
            raise Stopped
        message = "\nStopping: the current step is finished and saved first."
        if ranks()[1] == 1:
            self._restore()
            message += " Once more to stop at once."
        print(message, flush=True)

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
