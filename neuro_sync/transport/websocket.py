"""A websocket that raises our errors and keeps its own heartbeat.

websocket-client shakes hands, and is not told the token; its receive loop is not used. It promises
nothing about threads, a pong that does not come goes unnoticed in it, and it is too slow
(`rfc6455`).
"""

from __future__ import annotations

import http.client
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import Self
from urllib3.exceptions import HTTPError

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionFailed,
    NeuroError,
    ProtocolError,
    RequestTimeout,
    StreamClosed,
    StreamInterrupted,
    error_from_answer,
)
from neuro_sync.monotonic import monotonic
from neuro_sync.secret_text import SecretText

from .answers import PIECE, Connection
from .connections import socket_options
from .deadlines import DeadlinePassed, bounded, seconds_left
from .encoding import query_text
from .http import HttpTransport, Query, proxy_error, redirection
from .retry import Retry
from .rfc6455 import (
    BINARY,
    CLOSE,
    CONTINUATION,
    CONTROL_LIMIT,
    MESSAGE_LIMIT,
    PING,
    PONG,
    Frame,
    FrameReader,
    close_payload,
    close_reason,
    write_frame,
)
from .tls import remember_session
from .tokens import masked

logger: logging.Logger = logging.getLogger("neuro_sync")

HEARTBEAT = 10.0
"""Seconds of silence after which the peer is asked for a sign of life; after two it is gone."""

LARGEST_HEAD = 2**18
"""Bytes of the answer to a handshake, without its body."""

ALWAYS_TAKEN = 4096
"""So many bytes any command takes in without reading: a terminal's queue, the smallest one."""

NORMAL_END = 1000
FINE_ENDS = (NORMAL_END, None)
"""How a server's last frame says that all went well; any other code tells of a failure."""


class WebSocket(Closing):
    """Binary messages to and from one address; `send` and `close` may come from any thread.

    One thread reads, and while it does, the heartbeat goes on. A thread that has to stop reading
    for a while, because whoever it reads for is slow, calls `ping` instead every now and then.
    """

    def __init__(
        self,
        transport: HttpTransport,
        url: str,
        *,
        query: Query = (),
        subprotocols: Sequence[str] = (),
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """Prepare a connection to ``http://`` or ``https://`` `url`; `open` makes it."""
        self.subprotocol: str | None = None
        """Which of the offered ones the server chose, if any."""
        self._transport = transport
        url = transport.current_address(url)
        self._settings = transport.connection_settings(url)
        self._tokens = transport.tokens
        parameters = query_text(query)
        self._url = f"{url}?{parameters}" if parameters else url
        self._offered = ", ".join(subprotocols)
        self.heartbeat = heartbeat
        """Seconds of silence after which the peer is asked for a sign of life."""
        parts = urlsplit(url)
        self._what = f"the websocket {parts.path} at {parts.netloc}"
        self._socket: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._defect: ProtocolError | None = None
        self._parts: list[bytes] = []
        # Whoever sends holds it for a whole frame.
        self._writing = threading.Lock()
        # Held while a message is waited for; who closes in the meantime leaves the socket itself
        # to the reader, since a descriptor that is closed under a reader may be another's soon.
        self._reading = threading.Lock()
        # OpenSSL allows one call at a time on a connection, in either direction.
        self._calling = threading.Lock()
        self._closed = False
        self._ending = False
        # Pings of the peer that could not be answered at once. The reader adds, and whoever gets
        # to send takes away.
        self._owed_pongs: deque[bytes] = deque()
        self._heard = 0.0
        # Whether the connection may hold bytes that its socket does not announce, as TLS does, or
        # more than one piece of them.
        self._may_have_more = True
        # Bytes of messages sent; a ping bears the number, so that its pong tells how many of
        # them the peer has taken in.
        self._sent = 0
        self._taken = 0

    def open(self) -> Self:
        """Connect, and agree to speak websocket.

        Raises:
            APIError: The platform said no; the class and the text are the platform's.
            ConnectionFailed: It was not reached, or the connection broke.
            ProtocolError: It answered something that is no websocket.
        """
        try:
            return self._open_as_user()
        except NeuroError as error:
            # If the service has moved, the next one is opened where it is now.
            self._transport.moved_address(Retry.NEVER, self._url, error)
            raise

    def _open_as_user(self) -> Self:
        token = self._tokens.token()
        try:
            return self._open(token)
        except AuthenticationError:
            fresh = self._tokens.renew(token)
            if fresh is None:
                raise
        return self._open(fresh)

    def _open(self, token: SecretText) -> Self:
        # Raised when nothing is handled any more: the library's error repeats the whole answer,
        # which may repeat the token.
        refusal = self._shake_hands(token)
        if refusal is not None:
            raise refusal
        return self

    def _shake_hands(self, token: SecretText) -> NeuroError | None:
        """Connect and shake hands; return the platform's refusal, if it is one."""
        # Here, since `import neuro_sync` is to stay quick.
        from websocket import WebSocket as Handshake
        from websocket import (
            WebSocketBadStatusException,
            WebSocketException,
            WebSocketTimeoutException,
        )

        handshake = Handshake()

        self._reading.acquire()
        try:
            self._socket = self._connect()
            if self._closed:
                raise StreamClosed(f"{self._what} was closed while it was being opened")
            handshake.connect(  # type: ignore[no-untyped-call]  # it has no annotations
                f"ws{self._url[len('http') :]}",
                socket=_HandshakeSocket(self._socket, token),
                header=self._header(),
                suppress_origin=True,
                # It would send the token to wherever it is told to go.
                redirect_limit=0,
            )
            if handshake.getstatus() != http.HTTPStatus.SWITCHING_PROTOCOLS:
                # Before 1.9.1 it takes a redirection for an agreement.
                raise WebSocketException("Redirect limit exhausted")
            remember_session(self._socket)
            self._transport.track(self)
            self._socket.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._heard = monotonic()
        except WebSocketBadStatusException as error:
            self._discard()
            said = (error.resp_headers or {}).get("x-error") or error.resp_body or b""
            return self._refusal(error.status_code, said, error.resp_headers, token)
        except ConnectionFailed:  # the proxy's
            raise
        except ProtocolError as error:
            self._discard()
            raise ProtocolError(f"{error}: {self._what}") from None
        except (TimeoutError, WebSocketTimeoutException) as error:
            self._discard()
            if not seconds_left():
                text = f"no answer before the deadline: {self._what}"
                raise DeadlinePassed(text) from error
            raise RequestTimeout(f"no answer within the timeout: {self._what}") from error
        except (ConnectionRefusedError, socket.gaierror) as error:
            raise ConnectionFailed(f"nobody answers there: {self._what}") from error
        except IndexError as error:  # before 1.9.1, for a status line that is none
            self._discard()
            raise ProtocolError(f"what answered is no websocket: {self._what}") from error
        except (OSError, WebSocketException, ValueError, http.client.HTTPException) as error:
            self._discard()
            status = handshake.getstatus() or 0
            if 300 <= status < 400:
                location = (handshake.getheaders() or {}).get("location")
                path = urlsplit(self._url).path
                return redirection(status, "GET", path, location, token)
            if self._closed:
                raise StreamClosed(f"{self._what} was closed while it was being opened") from error
            if str(error) == "Invalid WebSocket Header":
                raise ProtocolError(f"what answered is no websocket: {self._what}") from error
            raise ConnectionFailed(f"the connection broke ({error}): {self._what}") from error
        finally:
            self._reading.release()
        answered = handshake.getheaders() or {}
        self.subprotocol = answered.get("sec-websocket-protocol")
        return None

    def _connect(self) -> socket.socket:
        """Return a connection by the settings of requests.

        websocket-client would look for proxies and certificates by rules of its own, and has one
        timeout for connecting and for the answer.
        """
        parts = urlsplit(self._url)
        connect, read = self._settings.timeout
        is_secure = parts.scheme == "https"
        host, port = str(parts.hostname), parts.port or (443 if is_secure else 80)
        proxy = urlsplit(self._settings.proxy) if self._settings.proxy else None
        if proxy and proxy.scheme != "http":
            raise ConfigError(f"exec, attach and port_forward know no {proxy.scheme} proxies")
        where = (str(proxy.hostname), proxy.port or 80) if proxy else (host, port)
        connection = Connection(*where, timeout=connect, socket_options=socket_options())
        if proxy:
            connection.set_tunnel(host, port, headers=dict(self._settings.proxy_headers))
        try:
            connection.connect()
        except (HTTPError, OSError, http.client.HTTPException) as error:
            connection.close()
            cause = error.__cause__ if isinstance(error, HTTPError) else error
            if proxy and isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
                raise proxy_error(cause, self._what) from error
            raise (cause or error) from error
        connected = connection.sock
        if self._settings.tls is not None:
            connected.settimeout(bounded(connect))
            connected = self._settings.tls.wrap_socket(connected, server_hostname=host)
        connected.settimeout(bounded(read))
        return connected

    def _header(self) -> dict[str, str]:
        header = {"User-Agent": self._settings.user_agent}
        if self._offered:
            # Not by `subprotocols=`: websocket-client turns a server away that chooses none.
            header["Sec-WebSocket-Protocol"] = self._offered
        return header

    def _refusal(
        self, status: int, said: bytes | str, headers: Mapping[str, str] | None, token: SecretText
    ) -> NeuroError:
        if status < 400:
            return ProtocolError(f"the answer was {status}, and no websocket: {self._what}")
        if isinstance(said, bytes):
            said = said.decode(errors="replace")
        return error_from_answer(
            status,
            masked(said, token),
            method="GET",
            path=urlsplit(self._url).path,
            headers={name: masked(value, token) for name, value in (headers or {}).items()},
        )

    def send(self, message: bytes) -> None:
        """Send one message; it may take as long as the peer takes.

        Raises:
            StreamClosed: It was closed, here or by the peer.
            StreamInterrupted: The connection broke.
        """
        if len(message) >= MESSAGE_LIMIT:
            raise ValueError("a message must be smaller than 4 MiB")
        frame = write_frame(BINARY, message)
        with self._writing:
            self._sent += len(message)
            self._write(frame)
        self._send_owed_pongs()

    def receive(self) -> bytes | None:
        """Wait for the next message; ``None`` is the end, here or at the peer's.

        Raises:
            StreamInterrupted: The connection broke, the peer gave no sign of life for two
                heartbeats, or it ended for a reason that is none of the fine ones.
            ProtocolError: What came is no websocket message.
        """
        with self._reading:
            try:
                while not self._closed:
                    if not self._frames:
                        self._receive_frames()
                    elif (message := self._take(self._frames.popleft())) is not None:
                        return message
            except BaseException:
                self._closed = True
                raise
            finally:
                if self._closed:
                    self._shut()
                    self._discard()
        return None

    def ping(self) -> None:
        """Show the peer that somebody is there, unless something is on its way to it anyway."""
        if not self._ending:
            self._send_if_possible(PING, str(self._sent).encode())

    def end(self, timeout: float) -> bool:
        """Tell the peer that nothing more will come; what it still sends can be received.

        A connection that is closed outright may lose what was sent last. Returns whether the
        peer was told, or the connection is over already; a writer that is waiting for the peer
        is given `timeout` seconds.
        """
        give_up_at = monotonic() + timeout
        if not self._writing.acquire(timeout=timeout):
            return False
        try:
            if self._ending or self._closed or self._socket is None:
                return True
            if not _is_writable(self._socket, max(give_up_at - monotonic(), 0.0)):
                return False
            self._ending = True
            with suppress(NeuroError):
                self._write(write_frame(CLOSE, close_payload(NORMAL_END)), ending=True)
            return True
        finally:
            self._writing.release()

    def close(self) -> None:
        """End everything at once, also what other threads are blocked in."""
        if self.is_inherited:
            self._closed = True
            return
        if not self._ending:
            self._ending = True
            self._send_if_possible(CLOSE, close_payload(NORMAL_END))
        self._closed = True
        self._shut()
        if self._reading.acquire(blocking=False):
            try:
                self._discard()
            finally:
                self._reading.release()

    def __repr__(self) -> str:
        return f"<{self._what}{', closed' if self._closed else ''}>"

    def _take(self, frame: Frame) -> bytes | None:
        """Return the message that a frame completes, or do what it asks for."""
        if frame.opcode == PING:
            self._owed_pongs.append(frame.payload)
            self._send_owed_pongs()
        elif frame.opcode == PONG:
            if len(frame.payload) < CONTROL_LIMIT and frame.payload.isdigit():
                self._taken = int(frame.payload)
        elif frame.opcode == CLOSE:
            code, reason = close_reason(frame.payload)
            if not self._ending:
                self._ending = True
                self._send_if_possible(CLOSE, frame.payload[:2])
            self._closed = True
            if code not in FINE_ENDS:
                raise StreamInterrupted(
                    f"{self._what} was ended by the platform with code {code}"
                    + (f": {reason}" if reason else "")
                )
        else:
            return self._assemble(frame)
        return None

    def _assemble(self, frame: Frame) -> bytes | None:
        if (frame.opcode == CONTINUATION) != bool(self._parts):
            raise ProtocolError(f"{self._what} sent the parts of a message out of order")
        if frame.is_final and not self._parts:
            return frame.payload
        self._parts.append(frame.payload)
        if sum(map(len, self._parts)) > MESSAGE_LIMIT:
            raise ProtocolError(f"{self._what} sent a message of more than 4 MiB")
        if not frame.is_final:
            return None
        message = b"".join(self._parts)
        self._parts = []
        return message

    def _receive_frames(self) -> None:
        if self._defect is not None:
            raise self._defect
        try:
            self._frames.extend(self._reader.feed(self._read()))
        except ProtocolError as error:  # told after the frames before it were handed out
            self._defect = error

    def _read(self) -> bytes:
        waiting_since = monotonic()
        while True:
            connected, selector = self._socket, self._selector
            if connected is None or selector is None:
                raise StreamClosed(f"{self._what} is not open")
            if not self._may_have_more and not selector.select(self.heartbeat):
                self._notice_silence(max(self._heard, waiting_since))
            elif self._closed:
                return b""
            else:
                piece = self._read_now(connected)
                # Nothing is tried in vain: that would let go of the interpreter, and take it again
                # from the thread that was just given a message and is about to answer it.
                self._may_have_more = piece is not None and (
                    len(piece) == PIECE or isinstance(connected, ssl.SSLSocket)
                )
                if piece is not None:
                    self._heard = monotonic()
                    return piece
            self._send_owed_pongs()

    def _read_now(self, connected: socket.socket) -> bytes | None:
        """Return what is there, ``None`` if that is nothing."""
        try:
            with self._calling:
                piece = connected.recv(PIECE)
        except (BlockingIOError, ssl.SSLWantReadError, InterruptedError):
            return None
        except ssl.SSLWantWriteError:
            _is_writable(connected, self.heartbeat)
            return None
        except OSError as error:
            if self._closed:
                return b""
            raise StreamInterrupted(f"{self._what} was cut: {error}") from error
        if not piece and not self._closed:
            raise StreamInterrupted(f"{self._what} was cut: it ended without a farewell")
        return piece

    def _notice_silence(self, since: float) -> None:
        # A peer whose command does not read its input stops reading as well, our pings included;
        # then silence means nothing, and it is left to TCP to give up on a peer that is gone.
        is_full = self._sent - self._taken > ALWAYS_TAKEN
        if not is_full and monotonic() - since >= 2 * self.heartbeat:
            raise StreamInterrupted(
                f"{self._what} gave no sign of life for {2 * self.heartbeat:g} s"
            )
        self.ping()

    def _send_owed_pongs(self) -> None:
        while self._owed_pongs and not self._ending:
            try:
                payload = self._owed_pongs.popleft()
            except IndexError:  # another thread was faster
                return
            if not self._send_if_possible(PONG, payload):
                self._owed_pongs.appendleft(payload)
                return

    def _send_if_possible(self, opcode: int, payload: bytes) -> bool:
        """Send a control frame, unless it would have to wait.

        The reader must never wait for a writer: the peer may be waiting for the reader.
        """
        if not self._writing.acquire(blocking=False):
            return False
        try:
            if self._socket is None or not _is_writable(self._socket):
                return False
            with suppress(NeuroError):  # the reader finds out soon enough
                self._write(write_frame(opcode, payload), ending=opcode == CLOSE)
            return True
        finally:
            self._writing.release()

    def _write(self, frame: bytes, *, ending: bool = False) -> None:
        """Send a whole frame; the caller holds the lock for it."""
        left = memoryview(frame)
        while left:
            connected = self._socket
            if connected is None or self._closed or (self._ending and not ending):
                raise StreamClosed(f"{self._what} is over; nothing more can be sent")
            try:
                with self._calling:
                    sent = connected.send(left)
            except (BlockingIOError, ssl.SSLWantWriteError, InterruptedError):
                _is_writable(connected, self.heartbeat)
                continue
            except ssl.SSLWantReadError:  # the reader reads it
                time.sleep(0.001)
                continue
            except OSError as error:
                if self._closed or self._ending:
                    raise StreamClosed(f"{self._what} is over") from error
                raise StreamInterrupted(f"{self._what} was cut: {error}") from error
            left = left[sent:]

    def _shut(self) -> None:
        """Wake all that wait for the connection, without taking it from them."""
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                if isinstance(connected, ssl.SSLSocket):
                    # Not its own shutdown(), which would strip its encryption first.
                    super(ssl.SSLSocket, connected).shutdown(socket.SHUT_RDWR)
                else:
                    connected.shutdown(socket.SHUT_RDWR)

    def _discard(self) -> None:
        """Close the descriptors; nobody reads any more, and writers are on their way out."""
        with self._writing:
            if self._selector is not None:
                self._selector.close()
                self._selector = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class _HandshakeSocket:
    """A connection on which a handshake ends at the deadline, and a head at its limit.

    The library reads heads byte by byte, however many bytes come.
    """

    def __init__(self, connected: socket.socket, token: SecretText) -> None:
        self._socket = connected
        self._token = token
        self._timeout = connected.gettimeout()
        self._head_size = 0

    def send(self, head: bytes) -> int:
        """Send the head with the token, which the library's variables and its log do not hold."""
        # Views, since a traceback would show bytes.
        left = memoryview(head)
        if self._token:
            lines = b"Authorization: Bearer " + self._token.encode() + b"\r\n\r\n"
            left = memoryview(head.removesuffix(b"\r\n") + lines)
            del lines
        while left:
            self._socket.settimeout(bounded(self._timeout))
            left = left[self._socket.send(left) :]
        return len(head)

    def recv(self, size: int) -> bytes:
        if size == 1:
            self._head_size += 1
            if self._head_size > LARGEST_HEAD:
                raise ProtocolError(f"the head of the answer has more than {LARGEST_HEAD} bytes")
        self._socket.settimeout(bounded(self._timeout))
        return self._socket.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _is_writable(connected: socket.socket, timeout: float = 0.0) -> bool:
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(connected, selectors.EVENT_WRITE)
        except (OSError, ValueError):  # closed by another thread
            return False
        return bool(selector.select(timeout))
