"""bench/ keeps working: tiny runs of our worker, everything verified, nothing timed; reports from what was kept."""

import subprocess
import sys

from bench import report, results
from bench.measures.all import MEASURES
from bench.run import STORE
from tests.conftest import ROOT


def test_benchmark_smoke_run_sends_and_verifies_everything():
    command = [sys.executable, '-m', 'bench.run', '--smoke', '--only', 'emails', 'enqueue', 'old_rows', '--own-sink']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert 'bulk against the same Celery' in ended.stdout


def test_every_kept_result_can_be_reported():
    kept = results.load(STORE)
    text = '\n'.join(report.document(MEASURES, kept))
    for measure in MEASURES:
        assert (measure.title in text) == (measure.key in kept)
