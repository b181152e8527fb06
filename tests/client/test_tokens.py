"""Tokens renew themselves: once, in time, and without anybody who is at work noticing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import neuro_sync
from neuro_sync import (
    AuthenticationError,
    ConnectionFailed,
    NeuroError,
    ServerNotAvailable,
    Session,
    StreamInterrupted,
    TooManyRequests,
)
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from neuro_sync.models.jobs import JobDescription
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.tokens import user_of
from tests.client.racing import race
from tests.oauth_server import CANARY, OAuthServer, TokenDoor
from tests.programs import require_programs
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

PAST = 1.0


class NoTime(Clock):
    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture
def store(home: Path, oauth: OAuthServer, door: TokenDoor) -> LoginStore:
    """Where somebody has logged in with a browser."""
    neuro_sync.login(oauth.browse, url=door.url)
    return LoginStore(home / ".neuro")


@pytest.fixture
def logged_in(store: LoginStore) -> Iterator[Session]:
    with Session() as session:
        yield session


@pytest.fixture(scope="module")
def job(platform: LocalPlatform) -> Iterator[JobDescription]:
    """A job that runs, has written a line, and writes another one when a file appears."""
    with Session(platform.url, platform.token) as session:
        started = session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command="sh -c 'echo one; until [ -e go ]; do sleep 0.02; done; echo two; sleep 60'",
        )
        with session.jobs.logs(started) as lines:
            assert next(lines) == "one"
        yield started
        session.jobs.kill(started)


def expire(store: LoginStore) -> None:
    """Let the saved token be over, as far as the client knows."""
    login = store.read()
    store.update(login.url, user_of(login.token), expiration_time=PAST)


def test_a_token_is_renewed_before_it_is_used(
    store: LoginStore, oauth: OAuthServer, door: TokenDoor
) -> None:
    expire(store)
    with Session() as session:
        assert session.jobs.get_capacity()
        assert (oauth.refreshes, door.refused) == (1, 0)
        saved = store.read()
        assert saved.token == session.config.token()
        assert saved.expiration_time > PAST


def test_a_token_is_renewed_after_three_quarters_of_its_life(
    store: LoginStore, oauth: OAuthServer
) -> None:
    class Later(Clock):
        seconds = 0.0

        def date(self) -> float:
            return super().date() + self.seconds

    clock = Later()
    with Session(clock=clock) as session:
        clock.seconds = 0.74 * oauth.lifetime
        first = session.config.token()
        assert oauth.refreshes == 0
        clock.seconds = 0.76 * oauth.lifetime
        assert session.config.token() != first
        assert oauth.refreshes == 1


def test_a_token_that_is_refused_is_renewed_once_and_the_call_repeated(
    logged_in: Session, oauth: OAuthServer, door: TokenDoor
) -> None:
    logged_in.jobs.get_capacity()
    oauth.revoke_tokens()
    started = logged_in.jobs.start(image="any", preset_name="cpu-small", command="true")
    assert (oauth.refreshes, door.refused) == (1, 1)
    assert logged_in.jobs.wait(started).status.is_finished


def test_a_registry_is_asked_with_a_token_that_renews_itself(
    logged_in: Session, oauth: OAuthServer, door: TokenDoor
) -> None:
    require_programs("docker-registry")
    assert logged_in.jobs.get_capacity()
    oauth.revoke_tokens()
    logged_in.images.list()
    assert (oauth.refreshes, door.refused) == (1, 1)


def test_the_first_question_renews_a_token_although_it_is_never_refused(
    logged_in: Session, oauth: OAuthServer
) -> None:
    oauth.revoke_tokens()
    logged_in.config.fetch()  # GET /config answers 200 to any token
    assert oauth.refreshes == 1


def test_a_refresh_token_that_changes_is_saved(
    logged_in: Session, store: LoginStore, oauth: OAuthServer
) -> None:
    oauth.rotates = True
    for _ in range(3):
        oauth.revoke_tokens()
        assert logged_in.jobs.get_capacity()
        logged_in.config.fetch()
    assert {store.read().refresh_token} == oauth.refresh_tokens


def test_a_wait_goes_on_when_its_token_expires(
    logged_in: Session, oauth: OAuthServer, session: Session
) -> None:
    job = logged_in.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
    logged_in.jobs.wait(job, until="running")

    class EachPollExpires(Clock):
        polls = 0

        def sleep(self, seconds: float) -> None:
            self.polls += 1
            oauth.now += oauth.lifetime + 1
            if self.polls == 3:
                session.jobs.kill(job)
            super().sleep(0.01)

    clock = EachPollExpires()
    with Session(clock=clock) as waiting:
        assert waiting.jobs.wait(job).status.is_finished
    assert oauth.refreshes >= clock.polls - 1 >= 2


def test_a_followed_log_goes_on_when_its_token_expires(
    logged_in: Session, oauth: OAuthServer, door: TokenDoor, job: JobDescription, session: Session
) -> None:
    with logged_in.jobs.logs(job) as lines:
        assert next(lines) == "one"
        oauth.now += oauth.lifetime + 1
        door.cut_all()  # as a platform does once a token is over
        assert session.jobs.run_command(job, "touch go").exit_code == 0
        assert next(lines) == "two"
    assert oauth.refreshes == 1


def test_a_command_goes_on_when_its_token_expires_and_the_next_one_renews_it(
    logged_in: Session, oauth: OAuthServer, job: JobDescription
) -> None:
    with logged_in.jobs.exec(job, "cat", stdin=True) as stream:
        stream.write_in(b"before ")
        oauth.now += oauth.lifetime + 1
        stream.write_in(b"after")
        heard = b""
        while heard != b"before after":
            message = stream.read_out(timeout=10)
            assert message is not None
            heard += message.data
        assert oauth.refreshes == 0
        assert logged_in.jobs.run_command(job, "echo more", text=True).stdout == "more\n"
        assert oauth.refreshes == 1
        stream.close_stdin()
        assert stream.exit_code == 0


RACER = """
import threading
from neuro_sync import Session

with Session() as session:
    tokens = []
    threads = [threading.Thread(target=lambda: tokens.append(session.config.token()))
               for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print("\\n".join([*set(tokens), ""]), end="")  # in one piece, since others print too
"""


@pytest.mark.parametrize("rotates", [False, True])
def test_many_threads_of_many_processes_renew_a_token_once(
    store: LoginStore, oauth: OAuthServer, rotates: bool
) -> None:
    oauth.rotates = rotates
    expire(store)
    printed = race([RACER] * 4)
    assert oauth.refreshes == 1
    assert printed == [store.read().token] * 4


def test_many_threads_that_are_refused_at_once_renew_the_token_once(
    logged_in: Session, oauth: OAuthServer
) -> None:
    assert logged_in.jobs.get_capacity()
    oauth.revoke_tokens()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            logged_in.jobs.get_capacity()
        except BaseException as error:  # noqa: BLE001  # told to the test
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert oauth.refreshes == 1


def test_a_child_of_fork_renews_although_the_parent_was_just_doing_so(
    logged_in: Session, store: LoginStore, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()
    give = oauth.give

    def give_late(form: dict[str, str]) -> tuple[int, dict[str, object]]:
        asked.set()
        answered.wait(10)
        return give(form)

    expire(store)
    with Session() as session:
        monkeypatch.setattr(oauth, "give", give_late)
        renewing = threading.Thread(target=session.config.token)
        renewing.start()
        assert asked.wait(10)
        child = os.fork()
        if child == 0:
            # The lock of the file is the parent's until it is done; its own is free.
            status = 1
            try:
                status = 0 if session.config.token() == store.read().token else 2
            finally:
                os._exit(status)
        answered.set()
        renewing.join()
        assert os.waitpid(child, 0)[1] == 0
    assert oauth.refreshes == 1


@pytest.mark.usefixtures("bubblewrap")
def test_a_folder_that_cannot_be_written_to_renews_for_this_session_alone(
    store: LoginStore, oauth: OAuthServer
) -> None:
    expire(store)
    code = (
        "from neuro_sync import Session\n"
        "with Session() as session: print(session.cluster_name, session.config.token())"
    )
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    cluster, token = ended.stdout.split()
    assert (cluster, oauth.refreshes) == ("local", 1)
    assert store.read().token != token


def test_a_refresh_that_is_refused_says_to_log_in_again_and_how(
    store: LoginStore, oauth: OAuthServer, door: TokenDoor
) -> None:
    expire(store)
    oauth.refresh_tokens.clear()
    with Session() as session, pytest.raises(AuthenticationError) as refused:
        session.jobs.get_capacity()
    assert str(refused.value) == (
        "the token could not be renewed (Unknown refresh token *** (403 for POST /token)); "
        f"log in again with neuro_sync.login(url='{door.url}'), "
        f"since the saved login {store.file} is over"
    )


def test_a_saved_token_that_is_refused_and_cannot_be_renewed_says_so(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    neuro_sync.login_with_token(oauth.new_token(), url=door.url)
    with Session() as session:
        assert session.jobs.get_capacity()
        oauth.revoke_tokens()
        with pytest.raises(AuthenticationError) as refused:
            session.jobs.get_capacity()
    assert str(refused.value) == (
        "the token is not accepted; "
        f"log in again with neuro_sync.login_with_token(TOKEN, url='{door.url}'), "
        f"since the saved login {home}/.neuro/db is over"
    )


def test_a_token_that_was_given_is_refused_in_the_words_of_the_platform(
    oauth: OAuthServer, door: TokenDoor
) -> None:
    token = oauth.new_token()
    with Session(door.url, token) as session:
        assert session.jobs.get_capacity()
        oauth.revoke_tokens()
        with pytest.raises(AuthenticationError, match=r"bad token \*\*\*"):
            session.jobs.get_capacity()


def test_a_new_token_that_is_refused_as_well_ends_the_call(
    logged_in: Session, oauth: OAuthServer, door: TokenDoor
) -> None:
    assert logged_in.jobs.get_capacity()
    oauth.revoke_tokens()
    oauth.lifetime = -1.0
    with pytest.raises(AuthenticationError, match=r"bad token \*\*\*"):
        logged_in.jobs.start(image="any", preset_name="cpu-small", command="true")
    assert (oauth.refreshes, door.refused) == (1, 2)


@pytest.mark.parametrize(("status", "error"), [(503, ServerNotAvailable), (429, TooManyRequests)])
def test_a_token_endpoint_that_is_busy_is_no_reason_to_log_in_again(
    store: LoginStore, oauth: OAuthServer, status: int, error: type[Exception]
) -> None:
    expire(store)
    oauth.refusal = (status, {"error": "busy"})
    with Session(clock=NoTime()) as session:
        with pytest.raises(error, match="busy") as refused:
            session.config.token()
        assert not isinstance(refused.value, AuthenticationError)
        oauth.refusal = None
        assert session.config.token()


def test_a_session_that_outlives_a_logout_leaves_nothing_behind(
    logged_in: Session, store: LoginStore, oauth: OAuthServer
) -> None:
    neuro_sync.logout()
    oauth.revoke_tokens()
    assert logged_in.jobs.get_capacity()
    assert oauth.refreshes == 1
    assert not store.exists()


def test_a_new_login_of_the_same_user_is_taken_up(
    logged_in: Session, store: LoginStore, oauth: OAuthServer, door: TokenDoor
) -> None:
    oauth.revoke_tokens()
    neuro_sync.login(oauth.browse, url=door.url)
    assert logged_in.jobs.get_capacity()
    assert oauth.refreshes == 0


def test_a_new_login_of_another_user_is_not_taken_up(
    logged_in: Session, store: LoginStore, oauth: OAuthServer, door: TokenDoor
) -> None:
    oauth.revoke_tokens()
    oauth.user = "somebody-else"
    neuro_sync.login(oauth.browse, url=door.url)
    with pytest.raises(AuthenticationError, match="is somebody else's by now; make a new session"):
        logged_in.jobs.get_capacity()


def refuse_refresh(oauth: OAuthServer) -> None:
    oauth.refresh_tokens.clear()


def answer_nonsense(oauth: OAuthServer) -> None:
    oauth.refusal = (200, {"access_token": "canary canary", "expires_in": "canary"})


def answer_half(oauth: OAuthServer) -> None:
    oauth.refusal = (200, {"access_token": "canary.canary.canary"})


def fail(oauth: OAuthServer) -> None:
    oauth.refusal = (500, {"error": f"failed for {next(iter(oauth.refresh_tokens))}"})


def leave(oauth: OAuthServer) -> None:
    oauth.__exit__(None, None, None)


def let_be(oauth: OAuthServer) -> None:
    """The new token will not be accepted either."""
    oauth.lifetime = -1.0


def ask(session: Session, id: str) -> None:
    session.jobs.status(id)


def follow(session: Session, id: str) -> None:
    with session.jobs.monitor(id) as pieces:
        list(pieces)


def run(session: Session, id: str) -> None:
    session.jobs.run_command(id, "true")


@pytest.mark.parametrize("call", [ask, follow, run])
@pytest.mark.parametrize(
    "trouble", [refuse_refresh, answer_nonsense, answer_half, fail, leave, let_be]
)
def test_no_failure_tells_a_secret(
    logged_in: Session,
    oauth: OAuthServer,
    job: JobDescription,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[OAuthServer], None],
    call: Callable[[Session, str], None],
) -> None:
    assert logged_in.jobs.get_capacity()
    trouble(oauth)
    oauth.revoke_tokens()
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises((NeuroError, ConnectionFailed, StreamInterrupted)) as failure,
    ):
        call(logged_in, job.id)
    chain: list[BaseException | None] = [failure.value]
    while chain[-1] is not None:
        hidden = chain[-1].__suppress_context__
        chain.append(chain[-1].__cause__ or (None if hidden else chain[-1].__context__))
    tokens = logged_in._transport.tokens
    told = [
        "".join(traceback.format_exception(failure.value)),
        caplog.text,
        *(repr(error) + repr(vars(error) if error else "") for error in chain),
        *(repr(thing) for thing in (logged_in, logged_in.config, logged_in._transport, tokens)),
        repr(tokens._login),  # type: ignore[attr-defined]  # that of a saved login
    ]
    assert CANARY not in "\n".join(told)


def test_no_success_tells_a_secret(
    home: Path,
    platform: LocalPlatform,
    oauth: OAuthServer,
    door: TokenDoor,
    job: JobDescription,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        neuro_sync.login(oauth.browse, url=door.url)
        with Session() as session:
            for call in (ask, run):
                oauth.revoke_tokens()
                call(session, job.id)
            told = repr((session, session.config, dict(session.config.sources)))
            told += repr(session.config._found)
    ours = [record for record in caplog.records if record.name.startswith("neuro_sync")]
    assert ours
    # The browser of these tests logs too, as itself.
    assert CANARY not in told + "".join(record.getMessage() for record in ours)
    assert session.config.token() not in caplog.text
