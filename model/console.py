"""How every command says what is wrong: in a line or two, on stderr. Nothing heavy is imported here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from model.errors import DataError, ModelFilesError, TrainingError

stderr = Console(stderr=True, highlight=False)

EXTRAS = {
    **dict.fromkeys(("matplotlib", "tensorboard", "yaml"), "train"),
    **dict.fromkeys(("torch", "diffusers", "transformers", "peft", "safetensors", "huggingface_hub"), "inference"),
}
"""The extra of this package that brings a module that may be missing."""


@contextmanager
def errors_told() -> Iterator[None]:
    """Errors that a person can mend end the process in words; anything else keeps its traceback."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        named = [(".".join(map(str, one["loc"])) or "file", one["msg"]) for one in error.errors()]
        fail("\n".join(f"The setting {name} is wrong: {message}." for name, message in named))
    except (DataError, ModelFilesError, TrainingError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        fail(f"{module} is not installed: pip install 'omgsr-serve[{EXTRAS[module]}]'")


def fail(detail: str, advice: str = "") -> NoReturn:
    """End the process with status 1, after saying what is wrong and what to do."""
    stderr.print(f"[bold red]error:[/] {escape(detail)}", soft_wrap=True)
    if advice:
        stderr.print(advice, markup=False, soft_wrap=True)
    sys.exit(1)
