"""What becomes of a test that needs a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import REQUIRE, require_programs


def test_a_test_gets_the_paths_of_the_programs_it_needs() -> None:
    shell, *more = require_programs("sh", "cat")
    assert (Path(shell).name, [Path(path).name for path in more]) == ("sh", ["cat"])


def test_a_test_that_needs_missing_programs_is_skipped_and_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fish").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception) as skipped:
        require_programs("zsh", "fish", "bwrap")
    assert skipped.value.msg == "no zsh, bwrap in PATH: apt-get install zsh bubblewrap"


def test_where_all_programs_have_to_be_there_a_missing_one_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match="no ip in PATH: apt-get install iproute2"):
        require_programs("ip")
