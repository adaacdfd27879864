"""Jobs that workers refused: their producers believe that somebody works on them."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.refused import REASONS
from fleet.refused_jobs import REMEDIES, reported_refusals
from fleet.registry import LARGEST, WorkerRecord
from logs import hide_addresses
from reporting.checks.finding import Finding, note, warning
from reporting.live import read_living
from reporting.servers import Servers
from reporting.wording import cell, counted, length

RECENT_S = 3600.0


async def check(servers: Servers) -> list[Finding]:
    """Read what the living workers tell."""
    return list(judge_refused(await servers.ask_redis(read_living)))


def judge_refused(workers: Sequence[WorkerRecord]) -> Iterator[Finding]:
    """Name each reason for which jobs were refused; what happened long ago is only a note."""
    counts: Counter[str] = Counter()
    for worker in workers:
        for reason in REASONS:
            number = worker.refused.get(reason, 0)
            counts[reason] += number if type(number) is int and 0 < number < LARGEST else 0
    for what, remedy, is_recent in sentences(
        counts, [job for worker in workers for job in worker.refused_jobs]
    ):
        yield (warning if is_recent else note)(cell(hide_addresses(what)), remedy)


def sentences(counts: Mapping[str, Any], refused: Iterable[Any]) -> list[tuple[str, str, bool]]:
    """Say what was refused: a sentence and a remedy for each reason, and whether it is recent.

    Args:
        counts: By reason, of all workers.
        refused: As for reported_refusals.
    """
    found = []
    now = time.time()
    latest = reported_refusals(refused)
    for reason in REASONS:
        number = counts.get(reason)
        if type(number) is not int or not 0 < number < LARGEST:
            continue
        last = next((job for job in latest if job['reason'] == reason), None)
        what = f'{counted(number, "job was", "jobs were")} refused ({reason.replace("-", " ")})'
        if last is None:
            found.append((what, REMEDIES[reason], False))
            continue
        age_s = max(0.0, now - float(last['at']))
        what += f', the last {length(age_s)} ago ({last["job_id"]}): {last["why"]}'
        found.append((what, REMEDIES[reason], age_s < RECENT_S))
    return found
