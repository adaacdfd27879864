"""bench/ keeps working: a tiny run of our worker, everything verified, nothing timed."""

import subprocess
import sys

from tests.conftest import ROOT


def test_benchmark_smoke_run_sends_and_verifies_everything():
    command = [sys.executable, '-m', 'bench.run', '--smoke', '--only', 'jobs', 'bulk', '--own-sink']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
