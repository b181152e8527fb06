"""What the kernel takes as the arguments and variables of a program.

Whatever exceeds it would end the job at its start, with an error that names neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.models.jobs import Workload
from neuro_sync.models.words import split_words

LARGEST_ARGUMENT = 32 * os.sysconf("SC_PAGE_SIZE") - 1
"""Bytes of one argument, or of one variable with its name: Linux's MAX_ARG_STRLEN, without the
zero byte at the end."""
LARGEST_STACK_SHARE = 6 * 2**20
"""Bytes; to Linux a stack without a limit has one that is four times as large."""
LARGEST_TOTAL = min(os.sysconf("SC_ARG_MAX"), LARGEST_STACK_SHARE) - 2**14
"""Bytes of all arguments and variables together: a quarter of the stack, less what the platform
and the kernel add."""
POINTER_SIZE = 8
"""Bytes that each of them takes besides its own."""


def check_workload(workload: Workload) -> None:
    """Check that a job's command and variables can be given to a program.

    Raises:
        IllegalArgumentError: One of them is too large, or all of them together.
    """
    entrypoint = split_words(workload.entrypoint or "")
    command = split_words(workload.command or "")
    total = _check_words("entrypoint", entrypoint) + _check_words("command", command)
    _check_total("entrypoint, command and env", total + _check_variables(workload.env))


def check_words(field: str, words: Sequence[str]) -> None:
    """Check that words can be given to a program.

    Raises:
        IllegalArgumentError: One of them is too large, or all of them together.
    """
    _check_total(field, _check_words(field, words))


def _check_words(field: str, words: Sequence[str]) -> int:
    total = 0
    for word in words:
        size = _size(word)
        if size > LARGEST_ARGUMENT:
            raise IllegalArgumentError(
                f"{field}: a word of {size} bytes; Linux takes at most {LARGEST_ARGUMENT}, so pass "
                "it in a file"
            )
        total += size + 1 + POINTER_SIZE
    return total


def _check_variables(variables: Mapping[str, str]) -> int:
    total = 0
    for name, value in variables.items():
        size = _size(name) + 1 + _size(value)
        if size > LARGEST_ARGUMENT:
            raise IllegalArgumentError(
                f"env: the variable {name[:100]!r} has {size} bytes with its name; Linux takes at "
                f"most {LARGEST_ARGUMENT}, so pass it in a file"
            )
        total += size + 1 + POINTER_SIZE
    return total


def _check_total(fields: str, size: int) -> None:
    if size > LARGEST_TOTAL:
        raise IllegalArgumentError(
            f"{fields}: {size} bytes together; Linux takes at most {LARGEST_TOTAL}, so pass some "
            "of it in a file"
        )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
