"""Which files an upload leaves out, by the ignore files in its folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import PathSpec, Pattern


@dataclass(frozen=True)
class IgnoreRules:
    """The patterns of a folder and of all above it, written as for git."""

    specs: tuple[tuple[Path, PathSpec[Pattern]], ...] = ()
    """The folder of each file of patterns, the outermost first."""

    @classmethod
    def above(cls, folder: Path, names: Iterable[str]) -> IgnoreRules:
        """Return the rules of all folders above one."""
        rules = cls()
        for parent in reversed(folder.parents):
            rules = rules.with_folder(parent, names)
        return rules

    def with_folder(self, folder: Path, names: Iterable[str]) -> IgnoreRules:
        """Add what the ignore files of a folder say."""
        specs = list(self.specs)
        for name in sorted(names):
            file = folder / name
            try:
                lines = file.read_text("utf-8-sig").split("\n")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except UnicodeDecodeError as error:
                raise ValueError(f"the ignore file {file} is not UTF-8: {error}") from error
            # Loaded when there are patterns: most folders have none.
            from pathspec import PathSpec

            specs.append((folder, PathSpec.from_lines("gitignore", lines)))
        return IgnoreRules(tuple(specs))

    def verdict(self, path: Path, *, is_dir: bool) -> bool | None:
        """Return whether a file or folder is left out, None if no pattern matches it."""
        for folder, spec in reversed(self.specs):
            name = path.relative_to(folder).as_posix() + ("/" if is_dir else "")
            verdict: bool | None = spec.check_file(name).include
            if verdict is not None:
                return verdict
        return None
