"""Ctrl-C and termination asked for politely: finish the step, save, then stop."""

import signal

from utils.parallel import ranks


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets a flag; a second one acts at once.

    Under torchrun, which repeats every signal and ends what does not end by itself, the second one does nothing.
    Calling the object tells whether a stop was asked for.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __call__(self):
        return self.requested

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
        message = "\nStopping: the current step is finished and saved first."
        if ranks()[1] == 1:
            self._restore()
            message += " Once more to stop at once."
        print(message, flush=True)

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
