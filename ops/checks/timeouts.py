"""Times that must fit each other: in the settings, and between them and systemd's units."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ops.checks.finding import Finding, error, note, warning
from ops.connect import Connections
from ops.output import length
from settings import Settings

UNIT_DIRECTORIES = (
    '/etc/systemd/system',
    '/run/systemd/system',
    '/usr/lib/systemd/system',
    '/lib/systemd/system',
)
UNITS = 'email-worker*.service'
RFC_REPLY_S = 600.0  # RFC 5321, 4.5.3.2.6
LOSE_S = 10.0  # closing connections and the last results, after the drain
SYSTEMD_DEFAULT_S = 90.0
LEAST_PART_OF_LIFE = 0.5
UNIT_S: Mapping[str, float] = {
    '': 1,
    's': 1,
    'sec': 1,
    'min': 60,
    'm': 60,
    'ms': 0.001,
    'h': 3600,
    'hr': 3600,
}


async def check(connections: Connections) -> list[Finding]:
    """Judge the settings, and the units on this machine."""
    settings = connections.settings
    return [*judge_settings(settings), *judge_units(settings.worker_drain_s, read_units())]


def judge_settings(settings: Settings) -> Iterator[Finding]:
    """Judge what load_settings lets pass. Lease and beat it checks itself."""
    if settings.db_command_timeout_s >= settings.worker_lease_s:
        yield error(
            f'DB_COMMAND_TIMEOUT_S ({settings.db_command_timeout_s:g}) is not below WORKER_LEASE_S '
            f'({settings.worker_lease_s:g}): one slow statement loses every claim of a worker',
            'lower it to half the lease',
        )
    if settings.smtp_reply_timeout_s < RFC_REPLY_S:
        yield note(
            f'SMTP_REPLY_TIMEOUT_S is {settings.smtp_reply_timeout_s:g}: a relay that answers later has the mail, '
            'and it is sent again',
            'RFC 5321 says 600',
        )
    if settings.email_max_attempts is not None:
        yield from _judge_attempts(settings.email_max_attempts, settings)
    if settings.mongodb_timeout_s * 2 > settings.worker_lease_s:
        yield warning(
            f'MONGODB_TIMEOUT_S ({settings.mongodb_timeout_s:g}) is long beside WORKER_LEASE_S',
            'lower it to 5',
        )


def _judge_attempts(attempts: int, settings: Settings) -> Iterator[Finding]:
    needed_s = settings.retry_policy.times_s(attempts, None)[-1]
    life_s = settings.email_expiry_hours * 3600
    if needed_s > life_s:
        yield warning(
            f'{attempts} attempts take {length(needed_s)}, but mail expires after {settings.email_expiry_hours:g} h: '
            'the last are never made',
            'raise EMAIL_EXPIRY_HOURS, or lower EMAIL_MAX_ATTEMPTS or EMAIL_RETRY_MAX_DELAY',
        )
    elif needed_s < life_s * LEAST_PART_OF_LIFE:
        yield note(
            f'mail that a relay defers is dead after {attempts} attempts in {length(needed_s)}, '
            f'though it expires only after {settings.email_expiry_hours:g} h',
            'leave EMAIL_MAX_ATTEMPTS out, and it is tried until it expires; `python -m ops schedule` tells the times',
        )


def read_units(directories: Iterable[str] = UNIT_DIRECTORIES) -> dict[str, str]:
    """Return the workers' units on this machine, with their drop-ins: name and text. The first directory wins."""
    found: dict[str, str] = {}
    for directory in map(Path, directories):
        for path in sorted(directory.glob(UNITS)) if directory.is_dir() else ():
            if path.name not in found:
                drop_ins = [
                    p for d in directories for p in sorted(Path(d).glob(f'{path.name}.d/*.conf'))
                ]
                found[path.name] = '\n'.join(_text(part) for part in (path, *drop_ins))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''


def judge_units(drain_s: float, units: Mapping[str, str]) -> Iterator[Finding]:
    """Judge whether systemd lets a worker finish."""
    for name, text in units.items():
        stop_s = stop_timeout_s(text)
        if stop_s < drain_s + LOSE_S:
            yield error(
                f'{name} is killed {length(stop_s)} after it is told to stop, and WORKER_DRAIN_S is {drain_s:g}: '
                'mail under way then becomes uncertain',
                f'set TimeoutStopSec={drain_s + 2 * LOSE_S:g} in the unit, then systemctl daemon-reload',
            )


def stop_timeout_s(text: str) -> float:
    """Return a unit's TimeoutStopSec, the last one said; systemd's default without any."""
    said = re.findall(r'^\s*TimeoutStopSec\s*=\s*(\S.*?)\s*$', text, re.MULTILINE)
    if not said:
        return SYSTEMD_DEFAULT_S
    if said[-1] in ('infinity', '0'):
        return float('inf')
    parts = re.findall(r'(\d+(?:\.\d+)?)\s*([a-z]*)', said[-1])
    return sum(float(number) * UNIT_S.get(unit, 1) for number, unit in parts)
