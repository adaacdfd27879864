"""The metrics of web.metric_table in Prometheus' text format."""

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from logs import visible_lines
from reporting.kinds import KINDS
from reporting.overview import FLEET, STORED
from web.metric_table import DEFINED, Defined
from web.overview import judge_reading
from web.watch import Reading, Source

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
LONGEST_LABEL = 200  # names come from whoever may write to Redis


class Exposition:
    """A reading, as prometheus-client wants it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """Yield what was answered, and which sources answered."""
        up = GaugeMetricFamily(
            'email_source_up',
            '1 when it answered all of this scrape; when not, its metrics are the last known, for '
            '5 minutes at most',
            labels=('source',),
        )
        for source in Source:
            up.add_metric([source.value], source not in self._reading.problems)
        yield up
        if all(name in self._reading.found for name in (*FLEET, *STORED)):
            yield self._findings()
        for defined in DEFINED:
            if defined.question in self._reading.found:
                yield _family(defined, self._reading.found[defined.question])
        if 'outbox' in self._reading.found:
            yield self._outbox_age()

    def _outbox_age(self) -> Metric:
        """Return how old the outbox's numbers are: a duty's count, or an answer of before."""
        family = GaugeMetricFamily(
            'email_outbox_age_seconds',
            'how old the oldest of the numbers of email_outbox_emails is; 0 when all were just '
            'counted',
        )
        counted_s = self._reading.found['outbox']['counted_s']
        family.add_metric((), counted_s + self._reading.ages.get('outbox', 0.0))
        return family

    def _findings(self) -> Metric:
        """Return what the judge found, by kind.

        Unlike the numbers, each kind is there all the time, so that alerts end.
        """
        found = Counter(problem.kind for problem in judge_reading(self._reading) if problem.kind)
        family = GaugeMetricFamily(
            'email_findings',
            'how much is wrong, as ops status and the page tell it: act now, or worth a look',
            labels=('level', 'kind'),
        )
        for name, kind in KINDS.items():
            family.add_metric([kind.level.value, name], found[name])
        return family


def _family(defined: Defined, answer: Any) -> Metric:
    kind = (
        'counter'
        if defined.name.endswith('_total')
        else 'summary'
        if 'quantile' in defined.labels
        else 'gauge'
    )
    family = Metric(defined.name.removesuffix('_total'), defined.reported, kind)
    # Two records may claim the same name: Prometheus refuses a page with the same sample twice.
    samples = {tuple(map(_label, labels)): value for labels, value in defined.read(answer)}
    for labels, value in samples.items():
        if (number := _number(value)) is not None:
            family.add_sample(defined.name, dict(zip(defined.labels, labels, strict=True)), number)
    return family


def _label(value: Any) -> str:
    """Return harmless text, whatever stood in Redis: scrapes are read on terminals, too."""
    return visible_lines(str(value)[:LONGEST_LABEL])  # line ends are escaped there


def _number(value: Any) -> float | None:
    """Return a number, or None for what is none: anybody with rights to Redis writes records."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


@lru_cache(maxsize=1)
def exposition(reading: Reading) -> bytes:
    """Return a reading as text format 0.0.4."""
    return generate_latest(Exposition(reading))
