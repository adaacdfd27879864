"""E-mails per second and what they cost.

Celery, one job per e-mail, bulk, side by side on one relay.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders import BASELINE, CONTENDERS, DEFAULT_CONNECTIONS
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.outbox import RunFailed
from bench.relay import smtp_source_rate
from bench.rounds import Bench, Order, Run

SOURCE = 'source'
SOURCE_MESSAGES = 20_000
MESSAGE_BYTES = 2_300  # what one of our e-mails is on the wire, headers included
BY_ROLE = ('worker', 'postgres', 'redis', 'relay')


@dataclass(frozen=True)
class Ratio:
    """A bar: ours over theirs (or theirs over ours), within each round.

    Attributes:
        text: What the table calls it; the first two columns.
        of: Ours and theirs of one round -> the ratio.
        at_least: False when less is better.
    """

    contender: str
    text: str
    limit: str
    threshold: float
    of: Callable[[Run, Run], float]
    form: str = '.1f'
    at_least: bool = True


def faster(ours: Run, theirs: Run) -> float:
    """Return how many times as many e-mails a second."""
    return ours.emails_per_s / theirs.emails_per_s


def cheaper(ours: Run, theirs: Run) -> float:
    """Return how many times less worker CPU an e-mail."""
    return theirs.cpu_s_per_1000() / ours.cpu_s_per_1000()


def smaller(ours: Run, theirs: Run) -> float:
    """Return our memory over theirs."""
    return ours.peak_pss_bytes / theirs.peak_pss_bytes


class Delivery(Measure):
    """Contenders in turns on one relay."""

    def __init__(
        self,
        key: str,
        title: str,
        about_s: int,
        emails: Mapping[str, int],
        ratios: Sequence[Ratio],
        *,
        relay: Mapping[str, Any] | None = None,
        source_bar: float | None = None,
    ) -> None:
        """Say what is compared.

        Args:
            emails: By contender, enough for some seconds.
            relay: See RelayKind.
            source_bar: What fraction of smtp-source's rate bulk must reach.
        """
        self.key, self.title, self.about_s = key, title, about_s
        self._emails = emails
        self._ratios = ratios
        self._relay = relay or {}
        self._source_bar = source_bar

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Run all contenders in turns, and smtp-source as one of them."""
        runs, source = [], []
        messages = plan.count(SOURCE_MESSAGES, 100)
        keys = [key for key in self._emails if plan.peers or key != BASELINE]
        with bench.relay(**self._relay) as relay:
            for number, key in plan.turns([*keys, *([SOURCE] if self._source_bar else [])]):
                if key == SOURCE:
                    rate = smtp_source_rate(
                        relay, messages, sessions=DEFAULT_CONNECTIONS, message_bytes=MESSAGE_BYTES
                    )
                    source += [rate] if rate else []
                    continue
                emails = plan.count(self._emails[key], 40)
                order = Order(CONTENDERS[key], relay, emails, f'{self.key}_{number}_{key}')
                done = await bench.run(order)
                told = f'{done.emails_per_s:8.0f}/s {done.cpu_s_per_1000():6.2f} s CPU per 1,000'
                print(
                    f'{self.key} {number + 1}/{plan.rounds}  {CONTENDERS[key].title:45} {told}',
                    flush=True,
                )
                runs.append(done.as_json())
        return {
            'runs': runs,
            'source': source,
            'source_messages': messages,
            'relay': relay.describe(),
        }

    def bars(self, data: Data) -> list[Bar]:
        """Compare within each round."""
        by_key = runs_by_contender(data)
        bars = []
        for ratio in self._ratios:
            pairs = zip(by_key.get(ratio.contender, []), by_key.get(BASELINE, []), strict=False)
            values = [ratio.of(ours, theirs) for ours, theirs in pairs if theirs.peak_pss_bytes]
            met = None
            if values:
                median = statistics.median(values)
                met = median >= ratio.threshold if ratio.at_least else median <= ratio.threshold
            bars.append(
                Bar(
                    ratio.text,
                    ratio.limit,
                    spread(values, ratio.form) if values else 'not measured',
                    met,
                )
            )
        if self._source_bar:
            bars.append(self._against_source(data, by_key.get('bulk', [])))
        return bars

    def _against_source(self, data: Data, bulk: Sequence[Run]) -> Bar:
        text, limit = "bulk, fraction of smtp-source's rate on the same sink", f'{self._source_bar}'
        values = [run.emails_per_s / rate for run, rate in zip(bulk, data['source'], strict=False)]
        if not values:
            return Bar(text, limit, 'not measured: smtp-source is missing', None)
        return Bar(
            text, limit, spread(values, '.2f'), statistics.median(values) >= (self._source_bar or 0)
        )

    def details(self, data: Data) -> list[str]:
        """Return the numbers themselves."""
        by_key = runs_by_contender(data)
        rows = []
        for key, runs in by_key.items():
            memory = f'{statistics.median(run.peak_pss_bytes for run in runs) / 1e6:.0f}'
            costs = [spread([run.cpu_s_per_1000(role) for run in runs], '.2f') for role in BY_ROLE]
            rates = spread([run.emails_per_s for run in runs], '.0f')
            rows.append((CONTENDERS[key].title, f'{runs[0].emails:,}', rates, *costs, memory))
        if data['source']:
            title = f'smtp-source, {DEFAULT_CONNECTIONS} connections kept'
            rows.append(
                (
                    title,
                    f'{data["source_messages"]:,}',
                    spread(data['source'], '.0f'),
                    '',
                    '',
                    '',
                    '',
                    '',
                )
            )
        costs = [f'{role} CPU s per 1,000' for role in BY_ROLE]
        return table(('what', 'e-mails', 'e-mails/s', *costs, 'worker PSS MB'), rows)

    async def profile(self, bench: Bench, plan: Plan, target: Path) -> None:
        """Profile the worker with the one that missed its bar most likely: bulk."""
        with bench.relay(**self._relay) as relay:
            emails = plan.count(self._emails['bulk'], 40) * 2
            order = Order(CONTENDERS['bulk'], relay, emails, f'{self.key}_profile', profile=target)
            try:
                await bench.run(order)
            except (
                RunFailed
            ) as error:  # the sampler may slow it down too much; the numbers are there already
                print(f'no profile: {error}')


def runs_by_contender(data: Data) -> dict[str, list[Run]]:
    """Return the runs as they were, in the order of CONTENDERS."""
    runs = [Run(**run) for run in data['runs']]
    return {
        key: own for key in CONTENDERS if (own := [run for run in runs if run.contender == key])
    }


EMAILS = Delivery(
    'emails',
    'Without latency',
    200,
    {'celery': 1200, 'jobs': 6000, 'bulk': 20_000},
    (
        Ratio('jobs', 'one job per e-mail against Celery -c 4: e-mails/s', '12 x', 12, faster),
        Ratio('jobs', 'the same: worker CPU per e-mail', '1/15', 15, cheaper),
        Ratio('bulk', 'bulk against the same Celery: e-mails/s', '40 x', 40, faster),
        Ratio('bulk', 'the same: worker CPU per e-mail', '1/60', 60, cheaper),
        Ratio(
            'jobs',
            "memory (PSS) under load, one job per e-mail, over Celery's",
            '0.25',
            0.25,
            smaller,
            '.2f',
            False,
        ),
        Ratio(
            'bulk',
            "memory (PSS) under load, bulk, over Celery's",
            '0.25',
            0.25,
            smaller,
            '.2f',
            at_least=False,
        ),
    ),
    source_bar=0.35,
)
DELAYED = Delivery(
    'delayed',
    'Through a relay with 10 ms latency',
    180,
    {'celery': 400, 'jobs': 2000, 'bulk': 8000, 'bulk_wide': 16_000},
    (
        Ratio(
            'bulk_wide',
            'bulk through a relay with 10 ms latency, 32 connections, against Celery: e-mails/s',
            '50 x',
            50,
            faster,
        ),
    ),
    relay={'delay_ms': 10.0},
)
STARTTLS = Delivery(
    'starttls',
    'Through a relay with STARTTLS',
    150,
    {'celery': 500, 'jobs': 2500, 'bulk': 8000},
    (),
    relay={'tls': True},
)
