"""What the log tells, and what it keeps to itself."""

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from service.telemetry import configure_logging

def connect(password):
    raise ValueError("no way in")

configure_logging("INFO")
for logger in (structlog.get_logger("ours"), logging.getLogger("a library")):
    try:
        connect("pass" + "-".join("word"))
    except ValueError:
        logger.exception("failed")
"""


def test_a_traceback_is_logged_without_local_variables() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stderr
    for line in said.splitlines():
        told = json.loads(line)["exception"][0]
        assert (told["exc_type"], told["exc_value"]) == ("ValueError", "no way in")
        assert told["frames"][-1]["name"] == "connect"
    assert len(said.splitlines()) == 2
    assert "passw-o-r-d" not in said
