"""How the service's commands say what is wrong. Nothing heavy is imported here."""

from collections.abc import Iterator
from contextlib import contextmanager

from model.console import errors_told as model_errors_told
from model.console import fail


@contextmanager
def errors_told() -> Iterator[None]:
    """Errors that a person can mend, the model's and the service's, end the process in words."""
    from service.errors import ServiceError

    with model_errors_told():
        try:
            yield
        except ServiceError as error:
            fail(error.detail, error.advice)
