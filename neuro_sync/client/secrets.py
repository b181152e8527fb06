"""Secrets: put values away where jobs find them, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from neuro_sync.models.secrets import NewSecret, OpenedSecret, Secret
from neuro_sync.transport.encoding import segment
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

from .arguments import BadValuesRefused
from .config import Config, Section


class Secrets(Section):
    """The secrets section of a session, ``session.secrets``.

    A key means a secret of the session's current organisation and project, unless others are
    named. Jobs get values by ``secret_env`` and ``secret_files``.
    """

    def __init__(self, transport: HttpTransport, config: Config) -> None:
        self._transport = transport
        self._config = config

    def add(
        self,
        key: str,
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
        cluster = self._config.cluster(cluster_name)
        with BadValuesRefused():
            secret = NewSecret(key=key, value=value, **self._config.tenant(org_name, project_name))
        self._transport.request(
            "POST", cluster.secrets_url, retry=Retry.ALWAYS, body=secret.model_dump(mode="json")
        )

    def get(
        self,
        key: str,
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
        url = f"{self._config.cluster(cluster_name).secrets_url}/{segment(key)}"
        query = self._config.tenant(org_name, project_name).items()
        answer = self._transport.request("GET", url, retry=Retry.ALWAYS, query=query)
        return OpenedSecret.from_answer(answer.content).value

    def rm(
        self,
        key: str,
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
        url = f"{self._config.cluster(cluster_name).secrets_url}/{segment(key)}"
        self._transport.request(
            "DELETE",
            url,
            retry=Retry.REMOVAL,
            query=self._config.tenant(org_name, project_name).items(),
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
