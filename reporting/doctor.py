"""Runs the doctor's checks at the same time. An unreachable server stops no check of another."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

from reporting.checks.finding import LEVELS, Finding, Severity, error, unreachable
from reporting.problems import Document, Level, ProblemError

Check = Callable[[], Awaitable[list[Finding]]]

CHECK_TIMEOUT_S = 60.0
ORDER = tuple(Severity)


async def examine(checks: Mapping[str, Check]) -> Document:
    """Run the checks.

    Returns:
        level; checks (the gravest severity of each, or ok); not_made (which servers a check
        lacked); findings, the gravest first, each with the check that found it.
    """
    found = dict(
        zip(checks, await asyncio.gather(*map(_findings_of, checks.values())), strict=True)
    )
    # Several checks meet the same server that does not answer: the first reports it.
    first: dict[Finding, str] = {}
    for name, findings in found.items():
        for finding in findings:
            first.setdefault(finding, name)
    rows = [{'check': name} | asdict(finding) for finding, name in first.items()]
    rows.sort(key=lambda row: ORDER.index(row['severity']))
    missing = {
        name: list(dict.fromkeys(f.away for f in findings if f.away))
        for name, findings in found.items()
    }
    return {
        'level': max(
            (LEVELS[row['severity']] for row in rows), key=list(Level).index, default=Level.OK
        ).value,
        'checks': {name: _gravest(findings) for name, findings in found.items()},
        'not_made': {name: services for name, services in missing.items() if services},
        'findings': rows,
    }


def _gravest(findings: list[Finding]) -> str:
    return min((finding.severity for finding in findings), key=ORDER.index, default='ok')


async def _findings_of(check: Check) -> list[Finding]:
    """Run one check, whatever becomes of it."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check()
    except ProblemError as failure:
        return [unreachable(failure.problem)]
    except TimeoutError:
        return [error(f'no answer within {CHECK_TIMEOUT_S:g} s', 'see why the server is so slow')]
    except Exception as failure:  # noqa: BLE001 - hides no other check
        return [
            error(
                f'the check itself failed: {type(failure).__name__}: {failure}',
                'please report this',
            )
        ]
