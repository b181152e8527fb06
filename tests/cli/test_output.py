"""What platforms and other users named is shown, and obeyed by no terminal."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.cli import output
from neuro_sync.cli.main import neuro as command
from neuro_sync.models.base import Model
from tests.scripted_platform import JOB_ID, ScriptedPlatform, answer, job, scripted_platform

from .test_habits import COMMANDS, EXAMPLES

EVIL = (
    "e\x1b]0;x\x07\x1b[2J\r\x00\x7f\x9b2J"
    "\u202e\u2066\u200e\u200b\u061c\u2028\ufeff\u3164\u115f名é\n"
)
SHOWN = (
    r"e\x1b]0;x\x07\x1b[2J\r\x00\x7f\x9b2J"
    r"\u202e\u2066\u200e\u200b\u061c\u2028\ufeff\u3164\u115f名é"
)
RUNNING = job() | {
    "name": EVIL,
    "owner": EVIL,
    "org_name": EVIL,
    "project_name": EVIL,
    "description": EVIL,
    "preset_name": EVIL,
    "tags": [EVIL],
    "internal_hostname": EVIL,
    "history": {
        "status": "running",
        "reason": EVIL,
        "description": EVIL,
        "created_at": "2026-01-01T00:00:00+00:00",
    },
    "container": {
        "image": EVIL,
        "command": EVIL,
        "entrypoint": EVIL,
        "working_dir": EVIL,
        "env": {EVIL: EVIL},
        "resources": {"cpu": 1, "memory": 2**20, "nvidia_gpu": 1, "nvidia_gpu_model": EVIL},
    },
}
FAILED = RUNNING | {
    "status": "failed",
    "history": {
        "reason": EVIL,
        "description": EVIL,
        "created_at": "2026-01-01T00:00:00+00:00",
        "status": "failed",
        "finished_at": "2026-01-01T00:00:01+00:00",
        "exit_code": 3,
    },
}


@pytest.fixture
def evil(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedPlatform]:
    """A platform whose every text is hostile, and that refuses what it is not made for."""
    monkeypatch.chdir(tmp_path)
    with scripted_platform() as platform:
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        config = platform.config()
        config["clusters"][0] |= {  # type: ignore[index]
            "orgs": ["acme", EVIL],
            "resource_presets": [
                {"name": EVIL, "cpu": 1.0, "memory": 2**30, "nvidia_gpu": 1, "gpu_model": EVIL}
            ],
        }
        config["projects"] = [
            {"name": name, "cluster_name": "default", "org_name": "acme"}
            for name in ("vision", EVIL)
        ]
        platform.script |= {
            "": answer({"error": f"{EVIL}Error: forged"}, "400 Bad Request"),
            "GET /api/v1/config": answer(config),
            "GET /api/v1/jobs?": answer({"jobs": [RUNNING]}),
            "GET /api/v1/jobs/": answer(RUNNING),
            "GET /api/v1/jobs/job-ended": answer(FAILED),
        }
        yield platform


def run(line: str, *more: str, **options: str) -> Result:
    return CliRunner().invoke(command, [*line.split(), *more], prog_name="neuro", **options)  # type: ignore[arg-type]


def check(ended: Result) -> str:
    """Check that nothing hidden was printed, and return what was."""
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    shown = ended.output
    assert [mark for mark in shown if mark not in "\n\t" and output.is_hidden(mark)] == []
    return shown


@pytest.mark.parametrize(
    "line",
    [
        "ps",
        "ps --wide",
        f"status {JOB_ID}",
        f"job generate-run-command {JOB_ID}",
        "config show",
        "config get-clusters",
        "config switch-project",
        "config switch-org",
        "config switch-project no-such",
        "wait job-ended",
        "--trace ps",
    ],
)
def test_no_text_of_a_platform_changes_what_a_terminal_shows(
    evil: ScriptedPlatform, line: str
) -> None:
    assert evil.url
    assert r"\x1b" in check(run(line)) or r"\033" in run(line).output


def test_a_question_shows_names_and_takes_the_one_that_is_meant(evil: ScriptedPlatform) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
        ended = run("config switch-project", input=f"{SHOWN}\\n\n")
    assert evil.url
    shown = check(ended)
    assert "Which project" in shown
    assert SHOWN in shown


@pytest.mark.parametrize(
    "line",
    [
        line
        for line, group in COMMANDS.items()
        if not isinstance(group, click.Group)
        and line.split()[0] not in ("local", "login", "logout", "doctor", "completion")
        and not line.startswith("config log")
    ],
)
def test_no_error_of_a_platform_changes_what_a_terminal_shows(
    evil: ScriptedPlatform, line: str
) -> None:
    evil.script["GET /api/v1/jobs/"] = evil.script["GET /api/v1/jobs?"] = evil.script[""]
    arguments = [p for p in COMMANDS[line].params if isinstance(p, click.Argument) and p.required]
    shown = check(run(line, *(EXAMPLES.get(str(one.name), "x") for one in arguments)))
    # What a platform says does not begin a line, as this program's own messages do.
    assert "\nError: forged" not in shown


def test_no_text_of_a_platform_looks_like_a_finding(evil: ScriptedPlatform) -> None:
    evil.script["GET /api/v1/config"] = evil.script[""]
    shown = check(run("doctor"))
    assert "  Error: forged" in shown
    assert "\nError: forged" not in shown


@pytest.mark.parametrize("line", ["ps --json", f"status {JOB_ID} --json", "config show --json"])
def test_json_is_ascii_and_has_the_very_text(evil: ScriptedPlatform, line: str) -> None:
    assert evil.url
    shown = check(run(line))
    assert shown.isascii()

    def texts(value: object) -> Iterator[object]:
        if isinstance(value, Mapping):
            yield from (text for pair in value.items() for one in pair for text in texts(one))
        elif isinstance(value, list):
            yield from (text for one in value for text in texts(one))
        else:
            yield value

    assert EVIL in [*texts(json.loads(shown))]


class Named(Model):
    """What a table lists."""

    name: str


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_json_of_any_text_is_ascii_and_is_parsed_to_it(names: list[str]) -> None:
    @click.command()
    def show() -> None:
        output.listing((Named(name=name) for name in names), (), id=str, as_json=True)

    shown = CliRunner().invoke(show).output
    assert shown.replace("\n", "").isascii()
    assert "\x7f" not in shown
    assert [named["name"] for named in json.loads(shown)] == names


@pytest.mark.parametrize(
    ("name", "width"),
    [("e\u0301", 1), ("名前", 4), ("ก\u0e31", 1), ("\u1112\u1161\u11ab", 2), ("\u202e", 6)],
)
def test_a_column_is_as_wide_as_a_terminal_shows_it(name: str, width: int) -> None:
    columns = (
        output.Column[Named]("N", lambda item: item.name),
        output.Column[Named]("M", lambda _: "|"),
    )
    rows = [*output.grid([Named(name=name), Named(name="x" * 9)], columns, titled=False)]
    assert rows[0].endswith(f"{' ' * (9 - width)}  |")


def test_a_long_text_is_cut_in_no_time() -> None:
    columns = (output.Column[Named]("N", lambda item: item.name),)
    (row,) = output.grid([Named(name="名" * 10**6)], columns, 20, titled=False)
    assert row == "名" * 9 + "…"


def test_only_one_module_prints() -> None:
    folder = Path(output.__file__).parent
    printing = {"echo", "secho", "echo_via_pager", "confirm", "prompt", "print", "write"}
    found = [
        f"{file.name}:{node.lineno}"
        for file in folder.glob("*.py")
        if file.name != "output.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "print")
            or (isinstance(node.func, ast.Attribute) and node.func.attr in printing)
        )
        and not ast.unparse(node.func).startswith("output.")
    ]
    # A code that the user pastes is asked for with a text of this program's own.
    assert [one for one in found if not one.startswith("config.py")] == []
