"""What differs between installations, from environment variables."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BROKER_URL = os.environ['CELERY_BROKER_URL']
CACHE_URL = os.environ['CACHE_URL']
DATABASE_URL = os.environ['DATABASE_URL'].partition('://')[2]
CELERY: dict[str, Any] = json.loads(os.environ.get('OLD_CELERY', '{}'))
STATUS = os.environ.get('OLD_STATUS', 'enum')
HAS_TIME_ZONES = os.environ.get('OLD_TIMESTAMP', 'timestamp') == 'timestamptz'
HAS_ALL_COLUMNS = os.environ.get('OLD_COLUMNS', 'all') == 'all'
WRITES_SENDING = os.environ.get('OLD_WRITES_SENDING') == '1'
RETRY_DELAY_S = float(os.environ.get('OLD_RETRY_DELAY_S', '20'))
RELAY_LATENCY_S = float(os.environ.get('OLD_RELAY_LATENCY_S', '0.1'))
MAX_ATTEMPTS = 5
NAME = os.environ['NAME']
LEDGER = Path(os.environ['LEDGER'])


def now() -> datetime:
    """Return the time as this installation's columns have it."""
    return datetime.now(UTC) if HAS_TIME_ZONES else datetime.now(UTC).replace(tzinfo=None)


def note(**entry: Any) -> None:
    """Append a line to the ledger of the rehearsal, in one write."""
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(
            descriptor, json.dumps({'at': datetime.now(UTC).timestamp(), **entry}).encode() + b'\n'
        )
    finally:
        os.close(descriptor)
