"""A process of the release after this one, for tests of an upgrade: `python -m tests.next_release api|worker`.

It is this release with what a next one might bring: a value of an option that an older worker would get wrong (so its
jobs have format 2), and in every message a field that may be left out (so all other jobs stay in format 1). Nothing of
this release knows of it; its processes read what these write.
"""

import runpy
import sys
from typing import Any, Literal, get_args

from pydantic import create_model, model_validator

import service.job as now

NextFormat = Literal[1, 2]
NEW = "reinhard"
PROGRAM = {"api": ("service.cli", "api"), "worker": ("tests.stub_worker",)}


class NextOptions(now.UpscaleOptions):
    color_fix: Literal["adain", "wavelet", "none", "reinhard"] | None = None
    """A worker that left the last one out would make another image."""


class NextJob(now.Job):
    version: NextFormat = 1
    options: NextOptions

    @model_validator(mode="before")
    @classmethod
    def _oldest_format_that_says_it(cls, told: dict[str, Any]) -> dict[str, Any]:
        options = told["options"]
        color_fix = options["color_fix"] if isinstance(options, dict) else options.color_fix
        return told | {"version": 2} if color_fix == NEW else told


def longer(message: type[now.Message]) -> type[now.Message]:
    """The same message with a field that older readers leave out."""
    return create_model(f"Next{message.__name__}", __base__=message, edition=(int, 2))


def become_next() -> None:
    """Before anything else of the service is imported."""
    assert "service.queue" not in sys.modules
    now.FORMATS = get_args(NextFormat)
    now.UpscaleOptions, now.Job = NextOptions, longer(NextJob)
    now.Result, now.Problem, now.VariantInfo = map(longer, (now.Result, now.Problem, now.VariantInfo))


if __name__ == "__main__":
    program, *arguments = PROGRAM[sys.argv[1]]
    become_next()
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__")
