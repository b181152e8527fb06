"""The client on Windows, as far as that shows on Linux: without the names that Windows lacks."""

from __future__ import annotations

import ast
import ntpath
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from ctypes import c_void_p
from pathlib import Path, PureWindowsPath
from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuro_sync
from neuro_sync import (
    ConfigError,
    CopyIncomplete,
    IllegalArgumentError,
    NotSupported,
    ResourceNotFound,
    Session,
    StdStream,
    StorageError,
)
from neuro_sync.cli.places import local_matches
from neuro_sync.client import console
from neuro_sync.client.transfers import file_uri, local_path
from neuro_sync.client.windows_names import objection
from neuro_sync.engine import connect, find_endpoint
from neuro_sync.local.server import LocalPlatform
from neuro_sync.models.uris import file_path_text, parse_uri
from tests import without_posix
from tests.conftest import OtherPlatform
from tests.without_posix import ARGUMENTS, MODULES, NAMES

PACKAGE = Path(neuro_sync.__file__).parent
OURS = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "local"
)
FORBIDDEN = {(module.__name__, name) for module, names in NAMES.items() for name in names}


class _Finder(ast.NodeVisitor):
    """Finds what Windows lacks, unless a condition or an `except` around it knows that."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._guards: list[str] = []

    def visit_Try(self, node: ast.Try) -> None:
        caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
        self._guarded(caught, node.body)
        for part in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(part)

    def visit_With(self, node: ast.With) -> None:
        self._guarded(" ".join(ast.unparse(item) for item in node.items), node.body)

    def visit_If(self, node: ast.If) -> None:
        self._choose(node.test, node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._choose(node.test, [node.body], [node.orelse])

    def _choose(
        self, test: ast.expr, body: Sequence[ast.AST], otherwise: Sequence[ast.AST]
    ) -> None:
        self.visit(test)
        self._guarded(ast.unparse(test), body)
        for part in otherwise:
            self.visit(part)

    def visit_Module(self, node: ast.Module) -> None:
        for statement in node.body:
            self.visit(statement)
            if _ends_on_windows(statement):  # so do the imports above it
                self.found.clear()
                return

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for statement in node.body:
            self.visit(statement)
            if _ends_on_windows(statement):
                return

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in MODULES and not self._is_guarded("ImportError"):
                self.found.append(f"{node.lineno}: import {alias.name}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            is_lacking = node.module in MODULES or (node.module, alias.name) in FORBIDDEN
            if is_lacking and not self._is_guarded("ImportError"):
                self.found.append(f"{node.lineno}: from {node.module} import {alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = ast.unparse(node)
        if tuple(name.split(".")) in FORBIDDEN and not self._is_guarded(node.attr):
            self.found.append(f"{node.lineno}: {name}")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg in ARGUMENTS:
            self.found.append(f"{node.lineno}: {node.arg}=")
        self.generic_visit(node)

    def _guarded(self, guard: str, body: Sequence[ast.AST]) -> None:
        self._guards.append(guard)
        for part in body:
            self.visit(part)
        self._guards.pop()

    def _is_guarded(self, name: str) -> bool:
        known = (name, "sys.platform != 'win32'", "hasattr(select, 'poll')")
        return any(text in guard for guard in self._guards for text in known)


def _ends_on_windows(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        is_end = isinstance(statement.body[-1], ast.Raise)
        return is_end and ast.unparse(statement.test) == "sys.platform == 'win32'"
    return ast.unparse(statement).startswith("assert sys.platform != 'win32'")


def lacking(source: str) -> list[str]:
    finder = _Finder()
    finder.visit(ast.parse(source))
    return finder.found


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_of_the_client_uses_what_windows_lacks(path: Path) -> None:
    assert lacking(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", 1),
        ("from os import getuid", 1),
        ("def f():\n    return os.open(p, os.O_CLOEXEC)", 1),
        ("os.open(p, 0, dir_fd=3)", 1),
        ("if x:\n    os.getuid()", 1),
        ("if hasattr(os, 'fchmod'):\n    os.getuid()", 1),
        ("try:\n    import fcntl\nexcept ImportError:\n    pass", 0),
        ("try:\n    import fcntl\nexcept OSError:\n    pass", 1),
        ("if hasattr(os, 'getuid'):\n    os.getuid()\nelse:\n    os.getuid()", 1),
        ("user = os.getuid() if hasattr(os, 'getuid') else 0", 0),
        ("def f():\n    if sys.platform == 'win32':\n        raise X\n    os.fork()", 0),
        ("import termios\nassert sys.platform != 'win32'\nos.fork()", 0),
    ],
)
def test_only_what_is_behind_a_guard_may_lack(source: str, found: int) -> None:
    assert len(lacking(source)) == found


IMPORT_ALL = """
import importlib, pkgutil, runpy, sys
import neuro_sync
remove = runpy.run_path(sys.argv[1])["remove"]
def names():
    for module in pkgutil.walk_packages(neuro_sync.__path__, "neuro_sync."):
        if module.name.split(".")[1] not in ("local", "__main__") :
            yield module.name
LACKING = {"neuro_sync.client.unix_keyboard"}
found = [name for name in names() if name not in LACKING]
for name in found:  # and with them all libraries, which see to themselves
    importlib.import_module(name)
for name in [name for name in sys.modules if name.startswith("neuro_sync")]:
    del sys.modules[name]
remove()
for name in found:
    importlib.import_module(name)
import neuro_sync
for use in (neuro_sync.Session.local, lambda: importlib.import_module("neuro_sync.local.server")):
    try:
        use()
    except neuro_sync.ConfigError as error:
        print(error)
from neuro_sync.cli.main import neuro
neuro(["local", "up"])
"""


def test_all_of_the_client_can_be_imported_and_the_local_platform_says_what_it_needs() -> None:
    ended = _python("-c", IMPORT_ALL, without_posix.__file__)
    said = "the local platform runs on Linux and macOS only; on Windows, run it in"
    assert ended.stdout.count(said) == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 77


def _python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=PACKAGE.parent,
        env={**os.environ, **variables},
    )


SLOW_OR_OF_POSIX = """
    progress nowhere interrupt replaced_is_seen large_files first_of_many regular listing_that_fails
    clock_is_hours fork twenty wherever_it_is_cut disk_that no_input encoding_lacks closed_standard
    paths_are_completed bar_is_drawn all_of_a_project many_connections needs_an_end piped_in
"""
"""Parts of names of tests that use pipes, links, signals or rights themselves, or take long."""


@pytest.mark.parametrize(
    "files",
    [
        "cli/test_std_streams.py cli/test_storage.py",
        "client/test_storage.py client/test_saved_login.py client/test_forward.py",
    ],
)
def test_the_tests_of_the_client_pass_without_what_windows_lacks(
    files: str, platform: LocalPlatform, tmp_path: Path
) -> None:
    ended = _python(
        *("-m", "pytest", "-q", "-n", "0", "-o", "timeout_method=thread"),
        *(
            "--basetemp",
            str(tmp_path / "tests"),
            "-k",
            f"not ({' or '.join(SLOW_OR_OF_POSIX.split())})",
        ),
        *(f"tests/{file}" for file in files.split()),
        **{OtherPlatform.VARIABLE: f"{platform.url} {platform.token} {platform.folder}"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("C:\\data\\a b#.txt", "file:///C:/data/a%20b%23.txt"),
        ("C:/data", "file:///C:/data"),
        ("\\\\server\\share\\x", "file://server/share/x"),
    ],
)
def test_a_path_of_windows_has_the_address_that_other_programs_give_it(
    path: str, address: str
) -> None:
    assert str(file_uri(PureWindowsPath(path))) == address


CHARACTERS = st.characters(codec="utf-8", exclude_characters="/\\:", min_codepoint=32)


@given(
    st.sampled_from(["C:\\", "d:/", "\\\\server\\share\\"]),
    st.lists(st.text(CHARACTERS, min_size=1), min_size=1),
)
def test_any_absolute_path_of_windows_makes_the_way_there_and_back(
    root: str, names: list[str]
) -> None:
    path = PureWindowsPath(root, *names)
    text = file_path_text(str(file_uri(path)), on_windows=True)
    assert ntpath.normpath(text) == ntpath.normpath(path)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///C:/x/y", "C:/x/y"),
        ("file:C:/x", "C:/x"),
        ("file://C:/x", "C:/x"),
        ("file://server/share", "//server/share"),
        ("file:///x%20y", "/x y"),
    ],
)
def test_a_file_address_names_drives_and_shares_on_windows(address: str, path: str) -> None:
    assert file_path_text(address, on_windows=True) == path


def test_elsewhere_a_file_address_has_neither_drives_nor_hosts() -> None:
    assert file_path_text("file:///C:/x", on_windows=False) == "/C:/x"
    with pytest.raises(ValueError, match="names the machine 'server'"):
        file_path_text("file://server/share", on_windows=False)


@pytest.mark.parametrize("text", ["C:\\x\\y", "C:/x", "c:x"])
def test_a_drive_is_no_scheme(session: Session, text: str) -> None:
    assert local_path(text) == Path(text)
    with pytest.raises(ValueError, match="is a path of this machine"):
        parse_uri(text)
    with pytest.raises(IllegalArgumentError, match="is a path of this machine"):
        session.parse.str_to_uri(text, allowed_schemes=("storage",))
    assert session.parse.str_to_uri(text, allowed_schemes=("file", "storage")).scheme == "file"


BAD_NAMES = ["a:b", "con", "NUL.txt", "Com1", "lpt9.tar.gz", "dot.", "space ", "x\\y", "q?", "\x07"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_windows_takes_no_such_name(name: str) -> None:
    assert objection(name)


@pytest.mark.parametrize("name", ["a", "console", ".con", "a.con", "com10", "ü ü.txt", "com", "#%"])
def test_windows_takes_other_names(name: str) -> None:
    assert objection(name) is None


def test_a_folder_is_downloaded_but_for_what_windows_cannot_name(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.storage.mkdir("storage:names/aux", parents=True)
    for name in (*BAD_NAMES, "good", "aux/below"):
        session.storage.create(f"storage:names/{quote(name)}", b"x")
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(CopyIncomplete) as raised:
        session.storage.download_dir("storage:names", tmp_path)
    with pytest.raises(StorageError, match="Windows has no files named 'con': that is a device"):
        session.storage.download_file("storage:names/con", tmp_path / "con")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    assert len(raised.value.failures) == len(BAD_NAMES) + 1
    messages = " ".join(failure.message for failure in raised.value.failures)
    assert "Windows has no files named 'a:b': ':' is not allowed in names" in messages


def test_a_large_download_is_closed_before_it_gets_its_name(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.storage.create("storage:large", b"x" * 2**17)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", without_posix.FakeMsvcrt("msvcrt"))
    replace = os.replace

    def replace_closed(source: str, target: str, **folders: int) -> None:
        assert source.endswith(".part")
        assert Path(source).name not in [
            Path(os.path.realpath(file)).name for file in Path("/proc/self/fd").iterdir()
        ]
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", replace_closed)
    session.storage.download_file("storage:large", tmp_path / "large")
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
    assert (tmp_path / "large").stat().st_size == 2**17


def test_patterns_of_local_files_are_expanded_where_no_shell_does(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.txt", "a.txt", "c[1].md"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in local_matches(f"{tmp_path}/*.txt")] == ["a.txt", "b.txt"]
    assert local_matches(f"{tmp_path}/c[1].md") == [f"{tmp_path}/c[1].md"]
    assert local_matches("no such file") == ["no such file"]
    with pytest.raises(ResourceNotFound, match="nothing matches"):
        local_matches(f"{tmp_path}/*.no")


def test_an_engine_may_listen_at_a_named_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    named = find_endpoint({"DOCKER_HOST": "npipe:////./pipe/other"})
    assert named.url == "npipe:////./pipe/other"
    with pytest.raises(ConfigError, match=r"npipe:////./pipe/other .DOCKER_HOST. does not answer"):
        connect(named, 1)
    monkeypatch.delattr(socket, "AF_UNIX")
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    assert find_endpoint({}).url == "npipe:////./pipe/docker_engine"
    with pytest.raises(ConfigError, match=r"has no Unix sockets\. Set DOCKER_HOST=npipe:"):
        find_endpoint({"DOCKER_HOST": "unix:///run/docker.sock"})


class FakeKernel32:
    """A console of Windows: its modes by handle, and its code page."""

    def __init__(self, *, takes_sequences: bool = True) -> None:
        self.modes = {100: 0x1F7, 101: 0x3}
        self.code_page = 850
        self._takes_sequences = takes_sequences

    def GetConsoleMode(self, handle: c_void_p, mode: Any) -> int:  # noqa: N802
        if handle.value not in self.modes:
            return 0
        mode._obj.value = self.modes[handle.value]
        return 1

    def SetConsoleMode(self, handle: c_void_p, mode: int) -> int:  # noqa: N802
        if mode & 0x204 and not self._takes_sequences:
            return 0
        self.modes[handle.value or 0] = mode
        return 1

    def GetConsoleOutputCP(self) -> int:  # noqa: N802
        return self.code_page

    def SetConsoleOutputCP(self, number: int) -> int:  # noqa: N802
        self.code_page = number
        return 1


class FakeKeys:
    """What `msvcrt` tells of a console of the descriptors 0 and 1."""

    def __init__(self, typed: str) -> None:
        self._typed = typed

    def get_osfhandle(self, descriptor: int) -> int:
        return 100 + descriptor

    def kbhit(self) -> bool:
        return bool(self._typed)

    def getwch(self) -> str:
        key, self._typed = self._typed[0], self._typed[1:]
        return key


class FakeStream:
    tty = True


def test_a_console_hands_on_keys_and_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel32 = FakeKernel32()
    keys = FakeKeys("a\x1b[A\N{SNOWMAN}\ud83d\ude00\x03")
    monkeypatch.setattr(console, "_console_api", lambda: console._ConsoleApi(keys, kernel32))
    keyboard = console.ConsoleKeyboard(0, 1)
    with keyboard, keyboard.connected(cast("StdStream", FakeStream())):
        # Neither echo, lines nor Ctrl-C are its own, and it speaks as terminals do.
        assert kernel32.modes == {100: 0x3F0, 101: 0xF}
        assert kernel32.code_page == 65001
        typed = b""
        while not typed.endswith(b"\x03"):
            typed += keyboard.read(10) or b""
        assert typed.decode() == "a\x1b[A\N{SNOWMAN}\N{GRINNING FACE}\x03"
        keyboard.stop()
    assert (kernel32.modes, kernel32.code_page) == ({100: 0x1F7, 101: 0x3}, 850)


def test_a_console_that_is_no_terminal_says_what_to_use() -> None:
    kernel32 = FakeKernel32(takes_sequences=False)
    api = console._ConsoleApi(FakeKeys(""), kernel32)
    with (
        pytest.raises(NotSupported, match="use Windows Terminal, run_command"),
        api.changed_mode(1, console._shows_sequences),
    ):
        pytest.fail("it takes no such mode")
    assert kernel32.modes[101] == 0x3
