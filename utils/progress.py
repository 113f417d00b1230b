"""Progress of a pass over many images: a bar on a terminal, single lines elsewhere."""

import sys
import time

from tqdm import tqdm

from utils.distributed import is_first

REFRESH_SECONDS = 2.0


class Progress:
    """Progress over `total` images, of which `done` are finished already.

    On a terminal, a bar that vanishes at the end. With `announce`, a function of (seconds, images
    per second), its text is printed once, when the duration of the pass can be estimated.
    Without a label there is no bar.
    """

    def __init__(self, label, total, done=0, announce=None):
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=" images",
            leave=False,
            disable=label is None or not (sys.stderr.isatty() and is_first()),
            mininterval=0.5,
            dynamic_ncols=True,
        )
        self.total, self.done, self.first = total, done, done
        self.announce = announce
        self.start = self.refreshed = time.perf_counter()

    def add(self, images):
        """Count `images`. Returns True when it is time to read metrics and `show` them."""
        self.done += images
        self.bar.update(images)
        now = time.perf_counter()
        if now - self.refreshed < REFRESH_SECONDS:
            return False
        self.refreshed = now
        if self.announce and now - self.start > 4 * REFRESH_SECONDS:  # after the warm-up
            self.bar.write(self.announce(self.total / self.rate, self.rate), file=sys.stdout)
            self.announce = None
        return True

    def show(self, **metrics):
        """Show metrics at the end of the bar."""
        shown = {name: f"{value:.3f}" for name, value in metrics.items()}
        self.bar.set_postfix(shown, refresh=False)

    @property
    def rate(self):
        """Images per second since the start of this pass."""
        return (self.done - self.first) / max(time.perf_counter() - self.start, 1e-9)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()
