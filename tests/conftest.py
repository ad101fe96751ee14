"""What holds for all tests."""

import os
import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and every process that a test starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not os.environ.get("CI"):  # where Hypothesis has such a profile of its own
    settings.register_profile("shared machine", deadline=None)
    settings.load_profile("shared machine")
