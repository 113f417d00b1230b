"""Progress of a pass over many images: a bar on a terminal, single lines elsewhere."""

import sys
import time

from tqdm import tqdm

from utils.distributed import is_first

REFRESH_SECONDS = 2.0


class Progress(tqdm):
    """Progress over `total` images, of which `done` are finished already.

    On a terminal, a bar that vanishes at the end; without a label there is none. `announce`, a
    function of (seconds, images per second), gives the line that is printed once the duration of
    the pass can be estimated.
    """

    def __init__(self, label, total, done=0, announce=None):
        super().__init__(
            total=total,
            initial=done,
            desc=label,
            unit=" images",
            leave=False,
            disable=label is None or not (sys.stderr.isatty() and is_first()),
            mininterval=0.5,
            dynamic_ncols=True,
        )
        self.announce, self.images = announce, 0
        self.start = self.refreshed = time.perf_counter()

    def add(self, images):
        """Count `images`. Returns True when it is time to read metrics and `show` them."""
        self.images += images
        self.update(images)
        now = time.perf_counter()
        if now - self.refreshed < REFRESH_SECONDS:
            return False
        self.refreshed = now
        if self.announce and now - self.start > 4 * REFRESH_SECONDS:  # after the warm-up
            self.write(self.announce(self.total / self.rate, self.rate))
            self.announce = None
        return True

    def show(self, **metrics):
        """Show metrics at the end of the bar."""
        self.set_postfix(metrics, refresh=False)

    @property
    def rate(self):
        """Images per second since the start of this pass."""
        return self.images / max(time.perf_counter() - self.start, 1e-9)
