"""``python -m neuro_sync`` is the ``neuro`` command."""

import io
import os
import sys


def main() -> None:
    """Run the command line, if what it is made of is installed."""
    _open_streams()
    try:
        from .cli.main import neuro
    except ImportError as error:
        sys.exit(f"the neuro command needs {error.name}: pip install 'neuro-sync[cli]'")
    neuro(prog_name="neuro")


def _open_streams() -> None:
    """Make the standard streams usable: a closed one is empty, and no character is too much."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor is this one, so no socket becomes a standard stream.
            os.open(os.devnull, os.O_RDWR)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        stream = getattr(sys, name)
        # "surrogateescape" is what Python chooses for the C locale.
        is_narrow = getattr(stream, "errors", None) in ("strict", "surrogateescape")
        if number and isinstance(stream, io.TextIOWrapper) and is_narrow:
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
