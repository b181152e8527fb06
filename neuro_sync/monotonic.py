"""The clock of all deadlines: it only goes forward, also while a test has frozen `time`."""

from __future__ import annotations

import sys
import time

if sys.platform != "win32":

    def monotonic() -> float:
        """Return seconds that only ever go forward, as `time.monotonic` does.

        Libraries such as freezegun replace `time.monotonic`, and a deadline would never pass.
        """
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:
    monotonic = time.monotonic
