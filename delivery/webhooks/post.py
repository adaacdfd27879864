"""Post one event, signed as Standard Webhooks has it, and say what came of it.

Source: https://www.standardwebhooks.com (specification 1.0.0).
"""

import asyncio
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore2
from standardwebhooks import Webhook

from db.webhook_deliveries import ClaimedDelivery, DeliveryResult
from delivery.webhooks.target import Network, Resolver, TargetError, read_target

# After how many seconds the next try is; the last is repeated until the delivery is a day old.
SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
LARGEST_ANSWER_BYTES = 64 * 1024  # what comes after is not read, and the connection closed
SHOWN_ANSWER_CHARS = 1000
LONGEST_COOL_S = 3600.0  # that a receiver may ask for
USER_AGENT = 'arq-mail-worker-webhooks'
KEPT_IDLE_S = 15.0
GONE, TOO_MANY, UNAVAILABLE = 410, 429, 503


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections to addresses that were checked, and to no other.

    The name is looked up once, here: whoever changes it afterwards changes nothing.
    """

    def __init__(self, resolver: Resolver, allowed: Sequence[Network], *, is_tls: bool) -> None:
        self._resolver = resolver
        self._allowed = allowed
        self._is_tls = is_tls
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that takes it.

        Raises:
            TargetError; httpcore2.ConnectError, OSError: none does.
        """
        failure: Exception = OSError('it has no address')
        for address in await self._resolver.checked(host, port, self._allowed, is_tls=self._is_tls):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer."""

    http_status: int
    answer: str
    retry_after_s: float = 0.0


class Poster:
    """Posts events; connections are kept and used again."""

    def __init__(self, allowed: Sequence[Network], timeout_s: float) -> None:
        self._resolver = Resolver()
        self._timeout_s = timeout_s
        # What may be posted in the clear goes to other addresses.
        self._connections = {
            is_tls: httpcore2.AsyncConnectionPool(
                ssl_context=ssl.create_default_context(),
                max_connections=None,
                max_keepalive_connections=20,
                keepalive_expiry=KEPT_IDLE_S,
                network_backend=CheckedBackend(self._resolver, allowed, is_tls=is_tls),
            )
            for is_tls in (True, False)
        }

    async def deliver(self, claimed: ClaimedDelivery) -> DeliveryResult:
        """Post an event; whatever goes wrong is in the result."""
        began_at = time.monotonic()
        retry_in_s = SCHEDULE_S[min(claimed.attempt, len(SCHEDULE_S)) - 1]
        try:
            async with asyncio.timeout(self._timeout_s):
                posted = await self._post(claimed)
        except TimeoutError:
            error = f'no answer within {self._timeout_s:g} s'
        except Exception as failure:  # noqa: BLE001 - of a receiver, whatever it is
            error = _words(failure)
        else:
            return _result(claimed, posted, time.monotonic() - began_at, retry_in_s)
        return DeliveryResult(
            claimed, time.monotonic() - began_at, error=error, retry_in_s=retry_in_s
        )

    async def _post(self, claimed: ClaimedDelivery) -> Posted:
        # An older version, or a person's SQL, may have stored what this one refuses.
        target = read_target(claimed.url)
        body = claimed.payload.encode()
        headers: list[tuple[bytes | str, bytes | str]] = [
            ('Content-Type', 'application/json'),
            ('User-Agent', USER_AGENT),
            ('Accept-Encoding', 'identity'),
            *signed(claimed, datetime.now(UTC)).items(),
        ]
        async with self._connections[target.is_tls].stream(
            'POST', claimed.url, headers=headers, content=body
        ) as response:
            answer = bytearray()
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) > LARGEST_ANSWER_BYTES:
                    break
            return Posted(
                response.status,
                answer[: 4 * SHOWN_ANSWER_CHARS].decode('utf-8', 'replace')[:SHOWN_ANSWER_CHARS],
                _retry_after_s(dict(response.headers)),
            )

    async def close(self) -> None:
        """Close the connections."""
        for connections in self._connections.values():
            await connections.aclose()
        self._resolver.close()


def signed(claimed: ClaimedDelivery, at: datetime) -> dict[str, str]:
    """Return the headers that say what an event is, when it is sent and by whom."""
    message_id = f'msg_{claimed.message_id.hex}'
    signatures = [
        Webhook(secret).sign(message_id, at, claimed.payload) for secret in claimed.secrets
    ]
    return {
        'webhook-id': message_id,
        'webhook-timestamp': str(int(at.timestamp())),
        'webhook-signature': ' '.join(signatures),
    }


def _result(
    claimed: ClaimedDelivery, posted: Posted, duration_s: float, retry_in_s: float
) -> DeliveryResult:
    status = posted.http_status
    if 200 <= status < 300:
        return DeliveryResult(claimed, duration_s, status, posted.answer)
    error = f'it answered {status}'
    if 300 <= status < 400:
        error = f'it answered {status}, and redirects are not followed'
    asks_to_wait = status in {TOO_MANY, UNAVAILABLE}
    return DeliveryResult(
        claimed, duration_s, status, posted.answer, error,
        retry_in_s=max(retry_in_s, posted.retry_after_s) if asks_to_wait else retry_in_s,
        cool_s=posted.retry_after_s if asks_to_wait else 0.0,
        is_gone=status == GONE,
    )  # fmt: skip


def _retry_after_s(headers: dict[bytes, bytes]) -> float:
    """Return how long a receiver asks to be left alone. Source: RFC 9110 section 10.2.3."""
    found = {name.lower(): value for name, value in headers.items()}
    text = found.get(b'retry-after', b'').decode('latin-1').strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_COOL_S)
    try:
        until = parsedate_to_datetime(text)
        wait_s = (until - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, min(wait_s, LONGEST_COOL_S))


def _words(failure: Exception) -> str:
    if isinstance(failure, TargetError):
        return f'refused: {failure}'
    return f'{type(failure).__name__}: {failure}'[:500].rstrip(': ')
