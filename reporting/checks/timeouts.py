"""Times that must fit each other: in the settings, and between them and systemd's units."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reporting.checks.finding import Finding, error, note, warning
from reporting.wording import length

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


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """Settings whose times must fit each other, by what they are."""

    db_command_timeout_s: float
    lease_s: float
    drain_s: float
    smtp_reply_timeout_s: float
    mongodb_timeout_s: float
    expiry_hours: float
    max_attempts: int | None  # None: tried until it expires
    attempts_take_s: float  # from the first to the last of max_attempts


async def check(times: TimeSettings) -> list[Finding]:
    """Judge the settings, and the units on this machine."""
    return [*judge_times(times), *judge_units(times.drain_s, read_units())]


def judge_times(times: TimeSettings) -> Iterator[Finding]:
    """Judge what load_settings lets pass. Lease and beat it checks itself."""
    if times.db_command_timeout_s >= times.lease_s:
        yield error(
            f'DB_COMMAND_TIMEOUT_S ({times.db_command_timeout_s:g}) is not below WORKER_LEASE_S '
            f'({times.lease_s:g}): one slow statement loses every claim of a worker',
            'lower it to half the lease',
        )
    if times.smtp_reply_timeout_s < RFC_REPLY_S:
        yield note(
            f'SMTP_REPLY_TIMEOUT_S is {times.smtp_reply_timeout_s:g}: '
            'a relay that answers later has the mail, and it is sent again',
            'RFC 5321 says 600',
        )
    if times.max_attempts is not None:
        yield from _judge_attempts(times.max_attempts, times)
    if times.mongodb_timeout_s * 2 > times.lease_s:
        yield warning(
            f'MONGODB_TIMEOUT_S ({times.mongodb_timeout_s:g}) is long beside WORKER_LEASE_S',
            'lower it to 5',
        )


def _judge_attempts(attempts: int, times: TimeSettings) -> Iterator[Finding]:
    needed_s, life_s = times.attempts_take_s, times.expiry_hours * 3600
    if needed_s > life_s:
        yield warning(
            f'{attempts} attempts take {length(needed_s)}, but mail expires after '
            f'{times.expiry_hours:g} h: the last are never made',
            'raise EMAIL_EXPIRY_HOURS, or lower EMAIL_MAX_ATTEMPTS or EMAIL_RETRY_MAX_DELAY',
        )
    elif needed_s < life_s * LEAST_PART_OF_LIFE:
        yield note(
            f'mail that a relay defers is dead after {attempts} attempts in {length(needed_s)}, '
            f'though it expires only after {times.expiry_hours:g} h',
            'leave EMAIL_MAX_ATTEMPTS out, and it is tried until it expires; '
            '`python -m ops schedule` tells the times',
        )


def read_units(directories: Iterable[str] = UNIT_DIRECTORIES) -> dict[str, str]:
    """Return the workers' units on this machine, with their drop-ins: name and text.

    The first directory wins.
    """
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
                f'{name} is killed {length(stop_s)} after it is told to stop, '
                f'and WORKER_DRAIN_S is {drain_s:g}: mail under way then becomes uncertain',
                f'set TimeoutStopSec={drain_s + 2 * LOSE_S:g} in the unit, '
                'then systemctl daemon-reload',
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
