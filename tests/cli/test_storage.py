"""The commands about files: what goes where, what is listed, what is said."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from yarl import URL

from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.models.uris import quoted_name
from neuro_sync.testing import Fault, FaultProxy

from .conftest import Neuro, Open
from .test_habits import bash_completions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with some files."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"a.txt": "one", "sub/b.tmp": "two", "sub/c.txt": "three"}.items():
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.fixture
def there(session: Session, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty folder of the storage."""
    folder = "storage:" + re.sub(r"\W+", "-", request.node.name)
    session.storage.mkdir(folder)
    yield folder
    session.storage.rm(folder, recursive=True)


def names(session: Session, folder: str) -> set[str]:
    """Return the names of all files below a folder."""
    full = str(session.storage.stat(folder).uri)
    return {str(uri).removeprefix(f"{full}/") for uri in session.storage.glob(f"{full}/**/*.*")}


def test_a_folder_goes_there_and_back(
    neuro: Neuro, session: Session, here: Path, there: str
) -> None:
    assert neuro(f"cp -r data {there}/new").output == ""
    assert names(session, f"{there}/new") == {"a.txt", "sub/b.tmp", "sub/c.txt"}
    assert neuro(f"cp -r {there}/new back").output == ""
    assert (here / "back/sub/c.txt").read_text() == "three"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cp data/a.txt {}", {"a.txt"}),
        ("cp data/a.txt {}/", {"a.txt"}),
        ("cp data/a.txt {}/n.txt", {"n.txt"}),
        ("cp -T data/a.txt {}/n.txt", {"n.txt"}),
        ("cp data/a.txt data/sub/c.txt {}", {"a.txt", "c.txt"}),
        ("cp -t {} data/a.txt data/sub/c.txt", {"a.txt", "c.txt"}),
        ("cp -r data {}", {"data/a.txt", "data/sub/b.tmp", "data/sub/c.txt"}),
        ("cp -r -T data {}", {"a.txt", "sub/b.tmp", "sub/c.txt"}),
        ("cp -r data {}/d", {"d/a.txt", "d/sub/b.tmp", "d/sub/c.txt"}),
        ("cp -r --exclude '*.tmp' -T data {}", {"a.txt", "sub/c.txt"}),
        ("cp -r --exclude sub/ -T data {}", {"a.txt"}),
        ("cp -r --exclude '*' --include '*.txt' -T data {}", {"a.txt"}),
    ],
)
def test_what_is_copied_where(
    neuro: Neuro, session: Session, here: Path, there: str, line: str, expected: set[str]
) -> None:
    ended = neuro(line.format(there))
    assert ended.exit_code == 0, ended.output
    assert names(session, there) == expected


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("cp data {}", 65, "data is a folder; copy it with -r"),
        ("cp no-such {}", 74, "no-such: No such file or directory"),
        ("cp {}/no-such .", 72, "no-such"),
        ("cp data/a.txt b", 65, "on the same side"),
        ("cp {}/a {}/b", 65, "on the same side"),
        ("cp data/a.txt", 65, "where to?"),
        ("cp -T data/a.txt data/sub/c.txt {}", 65, "with -T there is one source"),
        ("cp '{}/*.no' .", 72, "nothing matches"),
        ("mkdir {}", 65, "exists"),
        ("mkdir {}/a/b", 72, ""),
        ("rm {}", 65, "is a folder; recursive removes it"),
        ("rm {}/no-such", 72, "no-such"),
        ("mv data {}", 65, "not on the storage"),
        ("ls {}/no-such", 72, "no-such"),
        ("storage tree {}/no-such", 72, "no-such"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    neuro: Neuro, here: Path, there: str, line: str, code: int, told: str
) -> None:
    ended = neuro(line.replace("{}", there))
    assert ended.exit_code == code, ended.output
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1
    assert told in ended.stderr


def test_files_are_listed_moved_and_removed(
    neuro: Neuro, session: Session, here: Path, there: str
) -> None:
    neuro(f"mkdir -p {there}/deep/er")
    neuro(f"cp data/a.txt data/sub/c.txt {there}")
    assert neuro(f"ls {there}").output == "a.txt\nc.txt\ndeep/\n"
    assert neuro(f"ls --sort size {there}").output == "deep/\na.txt\nc.txt\n"
    assert re.search(r"f  manage  3B +\d{4}-.* a\.txt\n", neuro(f"ls -lh {there}").output)
    assert neuro(f"ls -d {there}").output == f"{there.removeprefix('storage:')}/\n"
    listed = json.loads(neuro(f"ls --json {there} {there}/deep").output)
    assert [file["path"] for file in listed] == ["a.txt", "c.txt", "deep", "er"]
    assert (
        neuro(f"-q ls {there}/deep").output == f"{session.storage.stat(f'{there}/deep/er').uri}\n"
    )

    assert neuro(f"mv {there}/a.txt {there}/b.txt").exit_code == 0
    assert neuro(f"mv '{there}/*.txt' {there}/deep").exit_code == 0
    assert neuro(f"storage tree {there}").output == (
        f"{there}\n└── deep\n    ├── b.txt\n    ├── c.txt\n    └── er\n"
    )
    found = neuro(f"storage glob '{there}/**/*.txt'").output.splitlines()
    assert json.loads(neuro(f"storage glob --json '{there}/**/*.txt'").output) == found
    assert [line.rpartition("/")[2] for line in found] == ["b.txt", "c.txt"]

    assert neuro(f"rm '{there}/deep/*.txt'").output == ""
    assert neuro(f"rm -r -P {there}/deep").output.count("Removed ") == 2
    assert neuro(f"ls {there}").output == ""


GO_ON = "The same with --continue goes on where this has broken off.\n"


def test_a_copy_that_breaks_off_tells_how_to_go_on(
    neuro: Neuro,
    platform: LocalPlatform,
    session: Session,
    here: Path,
    there: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = bytes(range(256)) * 2**14
    session.storage.create(f"{there}/large", content)
    path = f"{session.project_name}/{there.removeprefix('storage:')}/large"
    with FaultProxy(platform.port) as proxy:
        monkeypatch.setenv("NEURO_SYNC_URL", proxy.url)
        gone = [Fault(cut_after=0) for _ in range(8)]
        proxy.plan(f"GET /api/v1/storage/local/{path}?op=OPEN", Fault(cut_after=2**21), *gone)
        broken = neuro(f"cp {there}/large .")
        assert broken.exit_code == 74
        assert broken.stderr.startswith(GO_ON + "Error: ")
        assert not Path("large").exists()
    monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
    assert neuro(f"cp --continue {there}/large .").exit_code == 0
    assert Path("large").read_bytes() == content


def test_a_copy_that_is_interrupted_tells_how_to_go_on(
    neuro_terminal: Open, here: Path, there: str
) -> None:
    with open("large", "wb") as large:
        large.truncate(2**33)
    command = neuro_terminal(f"cp large {there}")
    command.wait_for(b"MB/s")
    command.type(b"\x03")
    command.wait_for(GO_ON.strip().encode())
    assert command.wait() == 130


def test_all_of_a_project_is_not_removed_by_a_slip(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalPlatform(ephemeral=True) as own:
        monkeypatch.setenv("NEURO_SYNC_URL", own.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", own.token)
        neuro("mkdir storage:data")
        for place in ("storage:", "storage:/root", "storage:./", "storage://local/local/root"):
            ended = neuro(f"rm -r storage:data {place}")
            assert ended.exit_code == 65
            assert f"{place} is all of a project's files" in ended.stderr
        assert neuro("ls").output == "data/\n"
        neuro("mkdir -p storage:root/root")
        assert neuro("rm -r storage:root/root").exit_code == 0
        assert neuro("rm -r --no-preserve-root storage:").exit_code == 0
        assert neuro("ls").output == ""


def test_hidden_files_are_shown_to_who_asks(neuro: Neuro, here: Path, there: str) -> None:
    Path(".hidden").write_text("")
    neuro(f"cp .hidden {there}")
    assert neuro(f"ls {there}").output == ""
    assert neuro(f"ls -a {there}").output == ".hidden\n"


NAMES = [
    *("x%41.txt", "a#b.txt", "q?.txt", "a%20b.txt", "~t", "~", "~$report.docx", "[x].csv", "*"),
    *("c:d", "file:x", "storage:x", "new\nline", "名前", " ", "+", "a;b&c", os.fsdecode(b"no\xff")),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_local_name_is_a_path_whatever_is_in_it(
    neuro: Neuro, session: Session, here: Path, there: str, name: str
) -> None:
    (here / name).write_text("right")
    assert neuro("cp", f"./{name}", f"{there}/").exit_code == 0
    (found,) = session.storage.list(there)
    assert found.name == name
    assert neuro("cp", str(here / name), f"{there}/{quoted_name(name)}").exit_code == 0
    (here / "back").mkdir()
    assert neuro("cp", "--no-glob", str(found.uri), "back").exit_code == 0
    assert neuro("cp", f"{there}/{quoted_name(name)}", "back/").exit_code == 0
    assert [path.name for path in (here / "back").iterdir()] == [name]
    address = URL(quote_from_bytes(os.fsencode(here / name), safe="/:"), encoded=True)
    assert neuro("cp", f"file://{address}", f"{there}/by-address").exit_code == 0
    assert neuro("cp", f"{there}/by-address", f"file://{address}").exit_code == 0
    assert (here / name).read_text() == "right"
    assert neuro("mv", f"{there}/{quoted_name(name)}", f"{there}/moved").exit_code == 0
    assert neuro("rm", f"{there}/moved", f"{there}/by-address").exit_code == 0
    assert [*session.storage.list(there)] == []


def test_a_tilde_is_the_home_folder_only_before_a_slash(
    neuro: Neuro, here: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here / "data"))
    assert neuro(f"cp '~/a.txt' {there}/one").exit_code == 0
    assert neuro(f"cp {there}/one '~/back'").exit_code == 0
    assert (here / "data/back").read_text() == "one"
    ended = neuro(f"cp '~nobody-here/x' {there}")
    assert ended.exit_code == 74
    assert "~nobody-here/x: No such file or directory" in ended.stderr


@pytest.mark.parametrize("address", ["file://host/a", "file:///a#b", "file:///a?b", "file:~/a"])
def test_an_address_that_is_no_local_file_is_refused(
    neuro: Neuro, there: str, address: str
) -> None:
    ended = neuro(f"cp '{address}' {there}")
    assert ended.exit_code == 65
    assert address in ended.stderr


def files_in(session: Session, folder: str) -> set[str]:
    return {file.name for file in session.storage.list(folder)}


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("rm {}/run[1].csv", {"run1.csv", "*", "d[1]", "d1"}),
        ("rm {}/run[1-9].csv", {"run[1].csv", "*", "d[1]", "d1"}),
        ("rm --no-glob {}/run[1].csv", {"run1.csv", "*", "d[1]", "d1"}),
        ("rm {}/*", {"run[1].csv", "run1.csv", "d[1]", "d1"}),
        ("rm -r {}/d*", {"run[1].csv", "run1.csv", "*"}),
        ("rm -r {}/d[1]", {"run[1].csv", "run1.csv", "*", "d1"}),
        ("rm {}/d[1]/*", {"run[1].csv", "run1.csv", "*", "d[1]", "d1"}),
        ("mv {}/run[1].csv {}/d1/", {"run1.csv", "*", "d[1]", "d1"}),
        ("mv --glob {}/run[1].csv {}/d1/", {"run[1].csv", "*", "d[1]", "d1"}),
    ],
)
def test_a_name_that_is_there_wins_over_what_it_matches(
    neuro: Neuro, session: Session, there: str, line: str, left: set[str]
) -> None:
    for name in ("run[1].csv", "run1.csv", "*", "d[1]/inner", "d1/inner"):
        session.storage.create(session.storage.stat(there).uri / name, name.encode())
    ended = neuro(*line.format(there, there).split())
    assert ended.exit_code == 0, ended.output
    assert files_in(session, there) == left
    # What is removed below d[1] is not removed below d1.
    assert "d1" not in left or "inner" in files_in(session, f"{there}/d1")


def test_a_name_that_is_there_is_what_is_copied_and_listed(
    neuro: Neuro, session: Session, here: Path, there: str
) -> None:
    for name in ("run[1].csv", "run1.csv"):
        session.storage.create(session.storage.stat(there).uri / name, name.encode())
    ended = neuro(f"cp '{there}/run[1].csv' out.csv")
    assert (here / "out.csv").read_text() == "run[1].csv"
    assert "is taken for a name" in ended.stderr
    assert neuro(f"ls '{there}/run[1].csv'").output == "run[1].csv\n"
    assert neuro(f"cp --glob '{there}/run[1].csv' out.csv").exit_code == 0
    assert (here / "out.csv").read_text() == "run1.csv"


def test_to_remove_by_a_pattern_that_is_a_name_too_is_refused(
    neuro: Neuro, session: Session, there: str
) -> None:
    for name in ("run[1].csv", "run1.csv"):
        session.storage.create(session.storage.stat(there).uri / name, b"")
    ended = neuro(f"rm --glob '{there}/run?1?.csv' '{there}/run[1].csv'")
    assert ended.exit_code == 65
    assert "is a pattern, and the name of a file as well" in ended.stderr
    assert files_in(session, there) == {"run[1].csv", "run1.csv"}
    assert neuro(f"rm --glob '{there}/run?1?.csv'").exit_code == 0
    assert files_in(session, there) == {"run1.csv"}


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ("--exclude *.txt --include a.txt", {"a.txt", "sub/b.tmp"}),
        ("--include a.txt --exclude *.txt", {"sub/b.tmp"}),
        ("--exclude *.txt --include *.txt --exclude a.txt", {"sub/b.tmp", "sub/c.txt"}),
        ("--exclude=sub --exclude *.tmp --include=sub/", {"a.txt", "sub/c.txt"}),
        ("--exclude /", {"a.txt", "sub/b.tmp", "sub/c.txt"}),
        ("--exclude sub[!0-9]c.txt", {"a.txt", "sub/b.tmp", "sub/c.txt"}),
        ("--include *.txt", {"a.txt", "sub/b.tmp", "sub/c.txt"}),
    ],
)
def test_the_last_pattern_of_the_command_line_decides(
    neuro: Neuro, session: Session, here: Path, there: str, options: str, copied: set[str]
) -> None:
    assert neuro(*f"cp -r -T {options} data {there}".split()).exit_code == 0
    assert names(session, there) == copied


def test_an_ignore_file_decides_before_the_command_line(
    neuro: Neuro, session: Session, here: Path, there: str
) -> None:
    (here / "data/.neuroignore").write_text("*.tmp\n!c.txt\n/\n")
    assert neuro(*f"cp -r -T --exclude *.txt --include *.tmp data {there}".split()).exit_code == 0
    assert {"sub/b.tmp", "a.txt", "sub/c.txt"} & names(session, there) == {"sub/c.txt"}


def test_what_cannot_be_copied_costs_itself_alone_and_the_exit_code_tells(
    neuro: Neuro, session: Session, here: Path, there: str
) -> None:
    (here / "data/loop").symlink_to("loop")
    (here / "data/dangling").symlink_to("nowhere")
    ended = neuro(f"cp -r -T data {there}")
    assert ended.exit_code == 74
    assert ended.stderr.count("the link leads nowhere") == 2
    assert names(session, there) == {"a.txt", "sub/b.tmp", "sub/c.txt"}

    (here / "data/loop").unlink()
    (here / "data/dangling").unlink()
    session.storage.mkdir(f"{there}/more/a.txt", parents=True)
    ended = neuro(f"-q cp -r -T data {there}/more")
    assert ended.exit_code == 74
    assert "data/a.txt: " in ended.stderr
    assert "data: 1 of its files or folders was not copied" in ended.stderr
    assert names(session, f"{there}/more/sub") == {"b.tmp", "c.txt"}

    session.storage.mkdir(f"{there}/several")
    ended = neuro(f"cp -r no-such data/a.txt data/sub {there}/several")
    assert ended.exit_code == 74
    assert ended.stderr == "Error: no-such: No such file or directory\n"
    assert names(session, f"{there}/several") == {"a.txt", "sub/b.tmp", "sub/c.txt"}

    (here / "back").mkdir()
    ended = neuro(f"cp {there}/several/no-such {there}/several/a.txt back")
    assert ended.exit_code == 72
    assert (here / "back/a.txt").read_text() == "one"


HOSTILE = ("[red]x", "a\x1b[2Jb", "line\nbreak", "名前", "100%", "#1?")


def test_a_name_is_text_and_cannot_move_the_cursor(neuro: Neuro, here: Path, there: str) -> None:
    for name in HOSTILE:
        (here / "data" / name).write_text("")
    neuro(f"cp -r -T data {there}")
    shown = neuro(f"ls {there}").output
    for name in ("[red]x", r"a\x1b[2Jb", r"line\nbreak", "名前", "100%", "#1?"):
        assert f"{name}\n" in shown
    assert "\x1b" not in shown


def test_how_full_it_is(neuro: Neuro, there: str) -> None:
    assert neuro("storage df").output.startswith("TOTAL")
    (usage,) = json.loads(neuro(f"storage df {there} --json").output)
    assert usage["total"] >= usage["used"]


def test_a_bar_is_drawn_on_a_terminal_only(
    neuro_terminal: Open, neuro: Neuro, here: Path, there: str
) -> None:
    (here / "data" / "[big].bin").write_bytes(bytes(2**20))
    assert neuro(f"cp data/[big].bin {there}/one").output == ""
    terminal = neuro_terminal(f"cp data/[big].bin {there}/two")
    assert terminal.wait() == 0
    shown = terminal.rest()
    assert b"[big].bin" in shown
    assert b"1.0/1.0 MB" in shown
    assert terminal.is_restored


def test_paths_are_completed(
    login: object, neuro: Neuro, here: Path, there: str, tmp_path: Path
) -> None:
    neuro(f"cp data/a.txt {there}")
    name = there.removeprefix("storage:")
    assert "storage:" in bash_completions("neuro ls sto", tmp_path)
    # What comes before the colon stays as it is typed.
    assert f"{name}/" in bash_completions(f"neuro ls {there[:-1]}", tmp_path)
    assert f"{name}/a.txt" in bash_completions(f"neuro cp -r {there}/a", tmp_path)
