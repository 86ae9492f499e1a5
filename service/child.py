"""Child processes that cannot outlive the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: nothing may be loaded after a fork


def start_child(
    command: Sequence[str], *, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command that dies with this process, in a session of its own.

    The session keeps a terminal's Ctrl-C away from it: the parent stops its children in order. On Linux the
    kernel kills the child when the parent dies by whatever cause; elsewhere only an orderly stop ends it.
    """
    parent = os.getpid()

    def bind() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    return subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=bind,  # noqa: PLW1509 — two system calls that take no lock
        pass_fds=pass_fds,
        env=env,
        stdin=subprocess.DEVNULL,
    )
