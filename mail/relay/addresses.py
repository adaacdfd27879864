"""A TCP connection to the first of a host's addresses that answers (RFC 8305, Happy Eyeballs)."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

# RFC 8305, 5: how long one address is waited for before the next is tried beside it.
ATTEMPT_DELAY_S = 0.25


class Address(NamedTuple):
    """Where to connect to, as getaddrinfo gives it."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


async def resolve(host: str, port: int) -> list[Address]:
    """Return the host's addresses as the system prefers them, families alternating (RFC 8305, 4).

    Raises:
        OSError: it has none, or nobody knows.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return interleave(
        dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found)
    )


def interleave(addresses: Sequence[Address] | dict[Address, None]) -> list[Address]:
    """Return the addresses with alternating families, that of the first address first."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    return [
        address
        for address in chain.from_iterable(zip_longest(*families.values()))
        if address is not None
    ]


def reachable_from(addresses: Sequence[Address], source: str) -> list[Address]:
    """Return those addresses that can be reached from one of ours: those of its family.

    Raises:
        OSError: there are none.
    """
    family = socket.AF_INET6 if ':' in source else socket.AF_INET
    found = [address for address in addresses if address.family == family]
    if not found:
        kind = 'IPv6' if family == socket.AF_INET6 else 'IPv4'
        raise OSError(f'it has no {kind} address, which source_address {source} needs')
    return found


async def open_socket(
    addresses: Sequence[Address], timeout_s: float, source: str | None = None
) -> tuple[socket.socket, Address]:
    """Connect to the first of these addresses that answers; each is tried within the time.

    Args:
        source: The address of ours to connect from; None for the system's choice.
    Returns:
        A connected socket that does not block, and its address.
    Raises:
        OSError: none answered; its text says what came of each.
    """
    failures: dict[Address, str] = {}
    connecting: dict[asyncio.Task[socket.socket], Address] = {}
    waiting = list(addresses)
    delay_s = min(ATTEMPT_DELAY_S, timeout_s / (len(waiting) + 1))
    try:
        async with asyncio.timeout(timeout_s):
            while waiting or connecting:
                if waiting:
                    address = waiting.pop(0)
                    connecting[asyncio.ensure_future(_connect(address, source))] = address
                done, _ = await asyncio.wait(
                    connecting,
                    timeout=delay_s if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if (error := task.exception()) is None:
                        return task.result(), connecting.pop(task)
                    failures[connecting.pop(task)] = str(error) or type(error).__name__
    except TimeoutError:
        late = dict.fromkeys([*connecting.values(), *waiting], f'no answer within {timeout_s:g} s')
        raise TimeoutError(_joined(failures | late)) from None
    finally:
        for task in connecting:
            task.cancel()
            task.add_done_callback(_close_unwanted)
    raise ConnectionError(_joined(failures))


async def _connect(address: Address, source: str | None) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a matter of speed only
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_unwanted(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _joined(failures: dict[Address, str]) -> str:
    return '; '.join(f'{address}: {failure}' for address, failure in failures.items())
