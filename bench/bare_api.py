"""The least that queues an e-mail over HTTP: FastAPI, asyncpg, one INSERT a request.

No token, no check, no idempotency, no grouping: what our own API is compared with.
`python -m bench.bare_api DSN PORT`.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

CONNECTIONS = 10
INSERT_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, body_html, next_retry_at, expires_at)
VALUES ($1, $2, $3, $4, now(), now() + interval '1 day') RETURNING id
"""


class BareEmail(BaseModel):
    """An e-mail."""

    to: str
    subject: str
    text: str
    html: str


def make_app(dsn: str) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post('/emails')
    async def send(email: BareEmail) -> dict[str, str]:
        row = email.to, email.subject, email.text, email.html
        return {'id': str(await app.state.pool.fetchval(INSERT_SQL, *row))}

    return app


def main() -> None:
    """Serve."""
    _, dsn, port = sys.argv
    uvicorn.run(make_app(dsn), port=int(port), log_level='warning', access_log=False)


if __name__ == '__main__':
    main()
