"""Jobs that workers refused: their producers believe that somebody works on them."""

from collections import Counter
from collections.abc import Iterator, Sequence

from fleet.refused import LARGEST, REASONS, sentences
from fleet.registry import WorkerRecord
from fleet.wording import cell, hide_addresses
from ops.checks.finding import Finding, note, warning
from ops.connect import Connections
from ops.live import read_living


async def check(connections: Connections) -> list[Finding]:
    """Read what the living workers tell."""
    return list(judge_refused(await connections.ask_redis(read_living)))


def judge_refused(workers: Sequence[WorkerRecord]) -> Iterator[Finding]:
    """Name each reason for which jobs were refused; what happened long ago is only a note."""
    counts: Counter[str] = Counter()
    for worker in workers:
        for reason in REASONS:
            number = worker.refused.get(reason, 0)
            counts[reason] += number if type(number) is int and 0 < number < LARGEST else 0
    for what, remedy, is_recent in sentences(counts, [job for worker in workers for job in worker.refused_jobs]):
        yield (warning if is_recent else note)(cell(hide_addresses(what)), remedy)
