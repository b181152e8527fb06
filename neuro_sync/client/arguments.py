"""What a caller got wrong, told alike by all sections."""

from __future__ import annotations

from pydantic import ValidationError

from neuro_sync.errors import IllegalArgumentError, NeuroError
from neuro_sync.models.base import explain


class BadValuesRefused:
    """Tells a bad value of a call as the `IllegalArgumentError` that a platform would answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValidationError):
            raise IllegalArgumentError(explain(error)) from error
        if isinstance(error, ValueError) and not isinstance(error, NeuroError):
            raise IllegalArgumentError(str(error)) from error
