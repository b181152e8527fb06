"""Tell which names of the package a type checker has to guess, from what pyright says of it.

    pyright --ignoreexternal --verifytypes neuro_sync --outputjson | python tests/public_types.py

Whoever uses the package calls none of the parts of the local platform, of the command, and of the
reading of answers, which goes in between those of other libraries.
"""

from __future__ import annotations

import json
import sys

PRIVATE = (
    "neuro_sync.local.",
    "neuro_sync.cli.",
    "neuro_sync.transport.answers.",
    "neuro_sync.transport.overlap.",
)


def main() -> int:
    found = json.load(sys.stdin)["typeCompleteness"]["symbols"]
    public = [symbol for symbol in found if not symbol["name"].startswith(PRIVATE)]
    guessed = [
        symbol for symbol in public if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    ]
    for symbol in guessed:
        told = "; ".join(each["message"] for each in symbol["diagnostics"])
        print(f"{symbol['name']}: {told}")
    print(f"{len(guessed)} of {len(public)} public names are without a certain type")
    return 1 if guessed or not public else 0


if __name__ == "__main__":
    sys.exit(main())
