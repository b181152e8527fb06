"""``python -m neuro_sync`` is the ``neuro`` command."""

import sys


def main() -> None:
    """Run the command line, if what it is made of is installed."""
    try:
        from .cli.main import neuro
    except ImportError as error:
        sys.exit(f"the neuro command needs {error.name}: pip install 'neuro-sync[cli]'")
    neuro(prog_name="neuro")


if __name__ == "__main__":
    main()
