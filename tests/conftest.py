"""One local platform for each worker, of its own: temporary folder, free port."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.transport.tokens import user_of
from tests import without_posix
from tests.docker_engine import shared_engine
from tests.oauth_server import OAuthServer, TokenDoor

WHERE_IT_IS = (
    "NEURO_SYNC_URL",
    "NEURO_SYNC_TOKEN",
    "NEURO_PASSED_CONFIG",
    "APOLO_PASSED_CONFIG",
    "NEUROMATION_CONFIG",
    "APOLO_CONFIG",
)

# A shell starts what runs in its background deaf to Ctrl-C, and nohup to the end of the terminal;
# all that tests start would be, too. What is handled here is neither handled nor passed over there.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# A platform's first user has the name of the user who starts it. That must not be a name that tests
# give to others, such as "alice" or "nobody".
os.environ["LOGNAME"] = f"tester-{os.getuid()}"


class OtherPlatform:
    """The platform of another process, for tests that run as on Windows."""

    VARIABLE = "NEURO_TEST_PLATFORM"

    def __init__(self) -> None:
        self.url, self.token, folder = os.environ[self.VARIABLE].split(" ", 2)
        self.folder = Path(folder)
        self.port = urlsplit(self.url).port


# How long an example takes says more about the machine than about the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_collection_finish() -> None:
    if OtherPlatform.VARIABLE in os.environ:
        without_posix.remove()


@pytest.fixture(scope="session")
def platform(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalPlatform | OtherPlatform]:
    if OtherPlatform.VARIABLE in os.environ:
        yield OtherPlatform()
        return
    # Room for whatever the tests of a worker leave running.
    with LocalPlatform(
        ephemeral=True,
        grace=0.5,
        cores=1000,
        memory=2**42,
        writable=[tmp_path_factory.getbasetemp()],
    ) as running:
        yield running


@pytest.fixture
def session(platform: LocalPlatform) -> Iterator[Session]:
    with Session(platform.url, platform.token) as opened:
        yield opened


@pytest.fixture
def start(session: Session) -> Callable[[str], JobDescription]:
    """Start a command on the small preset."""

    def start_command(command: str) -> JobDescription:
        return session.jobs.start(image="any", preset_name="cpu-small", command=command)

    return start_command


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """The address of a container engine of this test run's own."""
    base = tmp_path_factory.getbasetemp()
    with shared_engine((base if worker_id == "master" else base.parent) / "engine") as url:
        yield url


@pytest.fixture(scope="session")
def docker_platform(engine: str) -> Iterator[LocalPlatform]:
    """A local platform whose jobs are containers."""
    platform = LocalPlatform(ephemeral=True, grace=0.5, runtime="docker", cores=64, memory=2**40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        platform.start()
    yield platform
    platform.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, in an environment that names no platform."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    for variable in WHERE_IT_IS:
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def oauth(platform: LocalPlatform) -> Iterator[OAuthServer]:
    with OAuthServer(user_of(platform.token)) as server:
        yield server


@pytest.fixture
def door(platform: LocalPlatform, oauth: OAuthServer) -> Iterator[TokenDoor]:
    """The platform, for those who come with a token of the OAuth server."""
    with TokenDoor(platform, oauth) as opened:
        yield opened
