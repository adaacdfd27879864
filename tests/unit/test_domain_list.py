"""DOMAIN_LIMITS: what recipient domains get at most, as settings."""

import json
import os
from typing import Any

import pytest

from configuration.live import make_domain_limits
from mail.domains import DomainLimit
from settings import load_settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in [*os.environ]:
        if name.startswith(('SMTP_', 'RELAYS', 'ROUTES', 'DOMAIN_LIMITS', 'CREDENTIALS_')):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_domains_of_one_entry_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {'domain': ['Gmail.com', '*.gmail.com'], 'max_per_s': 5},
        {'domain': 'bücher.example', 'max_connections': 2},
    ]
    monkeypatch.setenv('DOMAIN_LIMITS', json.dumps(entries))
    assert make_domain_limits(load_settings()) == [
        DomainLimit('gmail.com', frozenset({'gmail.com', '*.gmail.com'}), 5.0, 0),
        DomainLimit('xn--bcher-kva.example', frozenset({'xn--bcher-kva.example'}), 0.0, 2),
    ]


@pytest.mark.parametrize(
    ('entries', 'said'),
    [
        ([{'domain': 'a.example'}], 'entry 1: needs max_per_s, max_connections, or both'),
        ([{'max_per_s': 1}], 'entry 1: domain: Field required'),
        ([{'domain': [], 'max_per_s': 1}], 'entry 1: domain: must name a domain'),
        ([{'domain': 'a b', 'max_per_s': 1}], "entry 1: domain: 'a b' is no domain: "),
        ([{'domain': 'a.example', 'max_per_s': 0}], 'entry 1: max_per_s: '),
        ([{'domain': 'a.example', 'per_s': 1}], 'entry 1: per_s: no such key; there are domain, '),
        (
            [{'domain': 'a.example', 'max_per_s': 1}, {'domain': 'A.example', 'max_per_s': 2}],
            'entry 2: a.example stands in two of them',
        ),
    ],
)
def test_wrong_entry_is_one_line(monkeypatch: pytest.MonkeyPatch, entries: Any, said: str) -> None:
    monkeypatch.setenv('DOMAIN_LIMITS', json.dumps(entries))
    with pytest.raises(SystemExit) as raised:
        load_settings()
    assert f'DOMAIN_LIMITS: {said}' in str(raised.value)
    assert '\n' not in str(raised.value)
