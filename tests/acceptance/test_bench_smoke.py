"""bench/ keeps working: tiny runs of our worker, everything verified, nothing timed.

Documents from what was kept.
"""

import os
import re
import subprocess
import sys

import pytest

from bench import model, report, store
from bench.measures.all import MEASURES
from bench.measures.delivery import EMAILS
from bench.measures.workers import SCALING
from bench.rounds import Run
from bench.run import RESULTS
from bench.store import Result
from tests.conftest import ROOT

CPU_S = {'worker': 0.1, 'postgres': 0.1, 'redis': 0.01, 'relay': 0.05}


def made_up(contender, emails_per_s, workers=1):
    return Run(contender, workers, 1000, 1000 / emails_per_s, CPU_S, 0.5, 10**7, 10**6).as_json()


def kept(key, data):
    return Result(key, 'today', 'bench', 'abc', 0.0, 5, ['a machine'], data)


@pytest.mark.timeout(900)
def test_benchmark_smoke_run_sends_and_verifies_everything():
    command = [
        sys.executable,
        '-m',
        'bench.run',
        '--smoke',
        '--only',
        'emails',
        'enqueue',
        'old_rows',
        'pages',
        'priority',
        '--own-sink',
    ]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert 'one job per e-mail against Celery' in ended.stdout
    assert 'urgent mail by enqueue_job while a newsletter drains' in ended.stdout


def test_bar_is_judged_by_the_median_of_ratios_within_rounds():
    rates = [(100, 1300), (50, 500), (200, 2600)]
    runs = [
        made_up(key, rate)
        for pair in rates
        for key, rate in zip(('celery', 'jobs'), pair, strict=True)
    ]
    bar = EMAILS.bars({'runs': runs, 'source': [], 'source_messages': 0})[0]
    assert (bar.measured, bar.met) == ('13.0 (10.0 to 13.0)', True)


def test_model_is_right_about_the_arrangement_it_was_calibrated_on_and_predicts_the_others():
    runs = [
        {'delay_ms': 100, 'connections': 10, 'run': made_up('bulk_for_all', 80 * workers, workers)}
        for workers in (1, 4)
    ]
    emails = {
        'runs': [made_up(key, 1000) for key in ('jobs', 'bulk')],
        'source': [],
        'source_messages': 0,
    }
    found = {
        EMAILS.key: kept(EMAILS.key, emails),
        SCALING.key: kept(SCALING.key, {'runs': runs, 'limits': {}, 'cores': 2}),
    }
    lines = model.check(found)
    assert '| 1 | 100 | 80 | latency | 80 | 1.00 (calibrated) | 50% |' in lines
    assert '| 4 | 100 | 320 | latency | 320 | 1.00 | 50% |' in lines


def test_every_kept_result_can_be_reported():
    found = store.load(RESULTS)
    text = '\n'.join(
        [
            *report.summary(MEASURES, found),
            *report.details(MEASURES, found),
            *(line for b in model.BLOCKS.values() for line in b(found)),
        ]
    )
    for measure in MEASURES:
        assert (
            (measure.title in text) or measure.key not in found or measure.key in report.ELSEWHERE
        )


MODULES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'bench').rglob('*.py')
)
PEERS = {
    'celery',
    'dramatiq',
    'saq',
    'sqlalchemy',
    'streaq',
    'taskiq_redis',
}  # of bench/requirements-peers.txt


@pytest.mark.parametrize('module', MODULES)
def test_every_module_can_be_imported(module):
    # In a process of its own: some read the environment, others change the loop.
    env = dict(os.environ) | {
        'BENCH_REDIS': 'redis://127.0.0.1/1',
        'BENCH_TALLY': '/nonexistent',
        'BENCH_DSN': '',
    }
    command = [sys.executable, '-c', f'import {module}']
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if missing := re.search(r"ModuleNotFoundError: No module named '(\w+)", ended.stderr):
        assert missing[1] in PEERS, ended.stderr
        pytest.skip(f'{missing[1]} is installed for a measurement only')
    assert 'ImportError' not in ended.stderr, ended.stderr
    assert ended.returncode == 0 or 'KeyError' in ended.stderr or '/nonexistent' in ended.stderr, (
        ended.stderr
    )


@pytest.mark.parametrize(
    ('module', 'arguments', 'told'),
    [
        ('schema', ['--emails', '3000', '--only', 'as migrated'], '| as migrated | '),
        ('schema_old', ['--old', '2000', '--rounds', '1'], 'claim by id beside it'),
        ('schema_partitions', ['--old', '2000', '--months', '6', '--rounds', '1'], '| 6 months | '),
    ],
)
def test_measurement_of_the_schema_runs_to_its_end(module, arguments, told):
    command = [sys.executable, '-m', f'bench.{module}', *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, told in ended.stdout) == (0, True), ended.stdout + ended.stderr
