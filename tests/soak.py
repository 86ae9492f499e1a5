"""How often a test tries what happens by chance: a short form for every day, the full one with OMGSR_SOAK=1."""

import os

FULL = os.environ.get("OMGSR_SOAK") == "1"


def times(full: int, short: int) -> int:
    """The count of the form that is asked for."""
    return full if FULL else short
