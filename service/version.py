"""Which release this is. Its one home is `version` in pyproject.toml."""

from functools import cache
from importlib import metadata


@cache
def release() -> str:
    """The semantic version, as the installed package's metadata has it."""
    return metadata.version("omgsr-serve")
