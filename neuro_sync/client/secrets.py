"""Secrets: put values away where jobs find them, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from yarl import URL

from neuro_sync.errors import ProtocolError
from neuro_sync.models.secrets import NewSecret, OpenedSecret, Secret
from neuro_sync.secret_text import SecretBytes
from neuro_sync.transport.encoding import segment
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

from .arguments import BadValuesRefused
from .config import Config, ResourceLocation, Section

if TYPE_CHECKING:
    import requests


class Secrets(Section):
    """The secrets section of a session, ``session.secrets``.

    A key means a secret of the session's current organisation and project, unless others are
    named; its address, such as ``secret:/PROJECT/KEY``, is accepted as well. Jobs get values by
    ``secret_env`` and ``secret_files``.
    """

    def __init__(self, transport: HttpTransport, config: Config) -> None:
        self._transport = transport
        self._config = config

    def add(
        self,
        key: str | URL,
        value: bytes,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> None:
        """Store a value under a key of letters, digits, ``_``, ``.`` and ``-``.

        One that is there already is replaced. A job that runs keeps what it was started with.

        Raises:
            IllegalArgumentError: The key is none, or the value empty or larger than 768 KiB.

        Endpoint: POST {secrets}
        """
        hidden = SecretBytes(value)
        del value  # no traceback shall show it
        found = self._config.locate("secret", key, cluster_name, org_name, project_name)
        body = {"key": found.name, "value": hidden, **found.tenant}
        with BadValuesRefused():
            secret = NewSecret.model_validate(body)
        self._transport.request(
            "POST",
            found.cluster.secrets_url,
            retry=Retry.ALWAYS,
            content=SecretBytes(secret.model_dump_json().encode()),
            headers={"Content-Type": "application/json"},
        )

    def get(
        self,
        key: str | URL,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> bytes:
        """Return the value of a secret.

        Raises:
            ResourceNotFound: There is none of this key.

        Endpoint: GET {secrets}/{key}
        """
        found = self._config.locate("secret", key, cluster_name, org_name, project_name)
        answer = self._transport.request(
            "GET", _url(found), retry=Retry.ALWAYS, query=found.tenant.items()
        )
        value, failure = _read(answer)
        if failure:
            # When nothing is handled any more: the frames of the original show the value.
            raise ProtocolError(failure)
        return value

    def rm(
        self,
        key: str | URL,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> None:
        """Delete a secret.

        Raises:
            ResourceNotFound: There is none of this key.

        Endpoint: DELETE {secrets}/{key}
        """
        found = self._config.locate("secret", key, cluster_name, org_name, project_name)
        self._transport.request(
            "DELETE", _url(found), retry=Retry.REMOVAL, query=found.tenant.items()
        )

    def list(
        self,
        *,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> Iterator[Secret]:
        """Yield the secrets that the caller may read, without their values.

        Endpoint: GET {secrets}
        """
        cluster = self._config.cluster(cluster_name)
        query = self._config.tenant(org_name, project_name).items()
        answer = self._transport.request(
            "GET", cluster.secrets_url, retry=Retry.ALWAYS, query=query
        )
        for secret in Secret.list_from_answer(answer.content):
            yield secret.model_copy(update={"cluster_name": cluster.name})


def _read(answer: requests.Response) -> tuple[bytes, str]:
    """Return a value, and why it cannot be read if it cannot."""
    try:
        return OpenedSecret.from_answer(answer.content).value, ""
    except ProtocolError as error:
        return b"", str(error)


def _url(secret: ResourceLocation) -> str:
    return f"{secret.cluster.secrets_url}/{segment(secret.name)}"
