"""Ctrl-C and termination asked for politely: finish the step, save, then stop."""

import signal
from contextlib import contextmanager

from utils.parallel import ranks


class Stopped(KeyboardInterrupt):
    """A stop was asked for where nothing has to be finished first."""


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets a flag; a second one acts at once.

    Under torchrun, which repeats every signal and ends what does not end by itself, the second one does nothing.
    Calling the object tells whether a stop was asked for.
    """

    def __init__(self):
        self.requested, self._acts_at_once = False, False
        self._previous = {}

    def __call__(self):
        return self.requested

    @contextmanager
    def at_once(self):
        """A block of work that is simply repeated later: a stop, asked for before or in it, raises `Stopped`."""
        if self.requested:
            raise Stopped
        self._acts_at_once = True
        try:
            yield
        finally:
            self._acts_at_once = False

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception):
        self._restore()

    def _ask(self, number, frame):
        if self.requested:
            return
        self.requested = True
        if self._acts_at_once:
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
