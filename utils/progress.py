"""Tell how far it is: a bar on a terminal, single lines elsewhere."""

import sys
import time

from tqdm import tqdm

from utils.parallel import is_first

REFRESH_SECONDS = 2.0


class Progress:
    """Progress over `total` images of one pass.

    On a terminal a bar that vanishes when the pass ends. Elsewhere nothing, unless `announce` is
    given: then one line with the expected duration, once the rate is known. Nothing at all without a label.
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
        """Count `images`. True when it is time to read figures from the device and `show` them."""
        self.done += images
        self.bar.update(images)
        now = time.perf_counter()
        if now - self.refreshed < REFRESH_SECONDS:
            return False
        self.refreshed = now
        if self.announce and self.rate > 0:
            # The first steps include warm-up, so the rate is told only after some more.
            if now - self.start > 4 * REFRESH_SECONDS:
                self.bar.write(self.announce(self.total / self.rate, self.rate), file=sys.stdout)
                self.announce = None
        return True

    def show(self, **figures):
        """Show figures at the end of the bar."""
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()}, refresh=False)

    @property
    def rate(self):
        """Images per second since the start of this pass."""
        return (self.done - self.first) / max(time.perf_counter() - self.start, 1e-9)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()
