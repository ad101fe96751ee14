"""What holds for all tests."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and every process that a test starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
