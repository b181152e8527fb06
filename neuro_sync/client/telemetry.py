"""What a job uses: JSON lines where the platform has them, else messages of a websocket."""

from __future__ import annotations

from collections.abc import Iterator

from neuro_sync.errors import APIError, ProtocolError
from neuro_sync.models.jobs import JobTelemetry
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.stream import NDJSON, Records, read_models
from neuro_sync.transport.websocket import WebSocket


class TelemetrySource:
    """Opens telemetry, and remembers which platforms have it by websocket only."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport
        self._websocket_only: set[str] = set()

    def open(self, monitoring_url: str, job_id: str) -> Records[JobTelemetry]:
        """Return a job's samples as they come."""
        url = f"{monitoring_url}/{job_id}/top"
        if monitoring_url not in self._websocket_only:
            try:
                stream = self._transport.stream(
                    url, retry=Retry.ALWAYS, accept=NDJSON, is_silent=True
                )
            except APIError as error:
                if not lacks_json_lines(error):
                    raise
                self._websocket_only.add(monitoring_url)
            else:
                if stream.content_type == NDJSON:
                    return Records(stream, read_models(stream, JobTelemetry))
                stream.close()
                raise ProtocolError(
                    f"{url} answered {stream.content_type!r} instead of JSON lines; "
                    "a proxy in between may be at fault"
                )
        websocket = WebSocket(self._transport, url).open()
        return Records(websocket, _messages(websocket))


def lacks_json_lines(error: APIError) -> bool:
    """Tell a platform that speaks websocket only from one that said no for a reason.

    The hosted one answers a plain request with 400 and a sentence that is no JSON, but only after
    it has found the job and checked the token; proxies may answer one of the others.
    """
    if error.payload is not None:
        return False
    return error.status in (400, 404, 405, 406, 426, 501)


def _messages(websocket: WebSocket) -> Iterator[JobTelemetry]:
    while (message := websocket.receive()) is not None:
        yield JobTelemetry.from_answer(message)
