"""What the heap of a process keeps. Apart from `memory`, which brings the model along: this, every worker needs."""

import ctypes


def give_back() -> None:
    """Return to the system what glibc's heap keeps of freed tensors: after images of many sizes, gigabytes."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
