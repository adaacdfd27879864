"""Alerts and dashboard use the metrics that docs/metrics.md defines, and their advice
can be typed.
"""

import json
import re
import shlex

import pytest

from ops.__main__ import make_parser
from tests.conftest import ROOT

NAME = r'\bemail_[a-z_]+\b'
LABELS = {
    'email_type',
    'email_worker',
}  # words of the same look: a label, the firewall's and the worker's user


def defined():
    return set(
        re.findall(rf'^\| `({NAME})` \|', (ROOT / 'docs/metrics.md').read_text(), re.MULTILINE)
    )


def used(path):
    return set(re.findall(NAME, (ROOT / path).read_text())) - LABELS


@pytest.mark.parametrize(
    'path',
    [
        'deploy/prometheus-alerts.yml',
        'deploy/prometheus-alerts.test.yml',
        'deploy/grafana-dashboard.json',
    ],
)
def test_only_defined_metrics_are_used(path):
    assert used(path) - defined() == set()
    assert used(path)


def test_every_metric_has_its_unit_or_counts_something():
    units = ('_seconds', '_bytes', '_total')
    plain = {
        *(
            'email_source_up',
            'email_service_up',
            'email_worker_up',
            'email_queue_served',
            'email_duty_failed',
        ),
        *('email_paused', 'email_worker_paused', 'email_outbox_emails', 'email_queue_jobs'),
        'email_quota_emails',
        *('email_worker_sending', 'email_worker_concurrency', 'email_findings'),
        *('email_webhook_events', 'email_route_up'),
        *('email_feedback_reports', 'email_feedback_unmatched'),
        *('email_ingress_up', 'email_ingress_connections', 'email_ingress_connections_limit'),
    }
    assert {name for name in defined() if not name.endswith(units)} == plain


def test_every_alert_has_a_severity_a_summary_and_a_command():
    alerts = re.split(
        r'^      - alert: ', (ROOT / 'deploy/prometheus-alerts.yml').read_text(), flags=re.MULTILINE
    )[1:]
    assert len(alerts) >= 10
    for alert in alerts:
        for part in ('expr: ', 'for: ', 'severity: ', 'summary: ', 'action: '):
            assert part in alert, f'{alert.splitlines()[0]} has no {part}'


def test_every_command_of_an_alert_can_be_typed():
    text = (
        (ROOT / 'deploy/prometheus-alerts.yml')
        .read_text()
        .replace('{{ $labels.worker }}', 'worker@host:42')
        .replace('{{ $labels.webhook }}', '7')
    )
    commands = re.findall(r'python -m ops ([^;"\n]+)', text)
    assert len(commands) > 10
    for command in commands:
        make_parser().parse_args(shlex.split(command))  # ends this test when it does not fit


def test_dashboard_has_panels_that_do_not_overlap_and_know_their_source():
    dashboard = json.loads((ROOT / 'deploy/grafana-dashboard.json').read_text())
    taken = set()
    for panel in dashboard['panels']:
        place = panel['gridPos']
        cells = {
            (x, y)
            for x in range(place['x'], place['x'] + place['w'])
            for y in range(place['y'], place['y'] + place['h'])
        }
        assert not cells & taken, panel['title']
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel['datasource']['uid'] == '${source}'
        assert panel['targets']
    assert len({panel['id'] for panel in dashboard['panels']}) == len(dashboard['panels'])
