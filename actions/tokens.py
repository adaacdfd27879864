"""Make and revoke tokens of the HTTP API."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from hashlib import sha256
from zlib import crc32

from actions.audit import audited
from actions.safety import RequestError
from db.api_tokens import MOST_TOKENS, NameTakenError, add_token, revoke_token
from db.audit import Actor
from db.selection import read_clock
from reporting.problems import Problem, ProblemError
from reporting.servers import Servers

# So that people and programs that look for secrets know what it is: arq mail worker.
PREFIX = 'amw_'
SECRET_CHARS = 64  # 256 bits in hex: a double click marks all of it
CHECKSUM_CHARS = 8
SEE_TOKENS = 'see `python -m ops token ls`'


class ApiScope(StrEnum):
    """What a token is for."""

    SEND = 'send'  # queue e-mails, see what became of them, reschedule and cancel them
    READ = 'read'  # look at e-mails, workers and queues; with SEND, at all, and what they say
    OPERATE = 'operate'  # retry, cancel and resolve e-mails; at the desk also pause and resume
    ADMINISTER = 'administer'  # webhooks; at the desk: senders, suppressions, tokens


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token; nobody can read it a second time."""

    id: int
    token: str
    expires_at: datetime | None


def new_token() -> str:
    """Return a token: the prefix, 256 random bits, a checksum."""
    secret = secrets.token_hex(SECRET_CHARS // 2)
    return f'{PREFIX}{secret}{_checksum(secret)}'


def token_named(name: str) -> str:
    """Return what stands for a token where others than tokens may stand: as owner, in a row."""
    return f'token:{name}'


def token_digest(text: str) -> bytes | None:
    """Return the hash under which a token is stored; None for what is none, as when it was cut off.

    Looking it up by its hash tells nobody by the time it takes how much of a token was right.
    """
    secret = text[len(PREFIX) : len(PREFIX) + SECRET_CHARS]
    if text != f'{PREFIX}{secret}{_checksum(secret)}' or len(secret) != SECRET_CHARS:
        return None
    return sha256(text.encode()).digest()


def _checksum(secret: str) -> str:
    return f'{crc32(secret.encode()):08x}'


async def create_token(
    servers: Servers,
    name: str,
    scopes: Sequence[ApiScope],
    *,
    by: Actor,
    organization_id: str | None = None,
    expires_in_s: float | None = None,
) -> CreatedToken:
    """Make a token.

    Args:
        organization_id: All that it sees and sends is this organisation's.
        expires_in_s: Counts from now by the database's clock; None: never.
    Raises:
        RequestError: the name is taken; ProblemError: PostgreSQL does not answer.
    """
    expires_at = None
    if expires_in_s is not None:
        expires_at = await servers.ask_postgres(read_clock) + timedelta(seconds=expires_in_s)
    token, words = new_token(), [str(scope) for scope in scopes]
    asked = {
        'name': name, 'scopes': words, 'organization_id': organization_id,
        'expires_at': expires_at and expires_at.isoformat(),
    }  # fmt: skip
    adding = partial(
        add_token,
        name=name,
        token_hash=sha256(token.encode()).digest(),
        scopes=words,
        organization_id=organization_id,
        created_by=by.name,
        expires_at=expires_at,
    )
    async with audited(servers, by, 'token.create', asked):
        try:
            token_id = await servers.ask_postgres(adding)
        except NameTakenError as error:
            raise RequestError(
                f'there is a token {name!r}', 'give another name, or revoke that one'
            ) from error
        if token_id is None:
            what = f'there are {MOST_TOKENS} tokens in use'
            raise ProblemError(Problem(what, f'revoke some first: {SEE_TOKENS}'))
    return CreatedToken(token_id, token, expires_at)


async def revoke_token_named(servers: Servers, name: str, *, by: Actor) -> int:
    """Revoke a token; web servers refuse it within 2 s. Returns its id.

    Raises:
        RequestError: there is no such token; ProblemError: PostgreSQL does not answer.
    """
    async with audited(servers, by, 'token.revoke', {'name': name}):
        token_id = await servers.ask_postgres(partial(revoke_token, name=name))
        if token_id is None:
            raise RequestError(f'there is no token {name!r} in use', SEE_TOKENS)
    return token_id
