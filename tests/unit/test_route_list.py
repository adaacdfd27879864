"""ROUTES: which mail goes by which relays, as settings."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from configuration.live import LiveSettings, make_routes
from configuration.route_list import RouteEntry
from configuration.view import digest, view
from mail.route_table import Route
from settings import load_settings

RELAYS = [{'name': name, 'host': f'smtp.{name}.example.com'} for name in ('eu', 'us', 'asia')]
BULK: dict[str, Any] = {'name': 'bulk', 'email_type': 'newsletter', 'relays': ['us']}

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Configure:
    for name in [*os.environ]:
        if name.startswith(('SMTP_', 'RELAYS', 'ROUTES', 'CREDENTIALS_')):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('RELAYS', json.dumps(RELAYS))

    def set_routes(*routes: Any) -> None:
        monkeypatch.setenv('ROUTES', json.dumps(routes))

    return set_routes


def refusal() -> str:
    with pytest.raises(SystemExit) as raised:
        load_settings()
    return str(raised.value)


def test_conditions_are_a_value_or_a_list_and_places_a_name_or_weights(
    configure: Configure,
) -> None:
    configure(
        BULK | {'email_type': ['newsletter', 'digest'], 'relays': [{'us': 3, 'asia': 1}, 'eu']},
        {
            'name': 'shop',
            'sender_domain': 'Shop.example',
            'recipient_domain': ['*.Bücher.example', 'bücher.example'],
            'organization': '42',
            'relays': 'eu',
        },
        {'name': 'rest', 'relays': ['eu', 'us']},
    )
    assert make_routes(load_settings()).routes == (
        Route(
            'bulk',
            frozenset({'newsletter', 'digest'}),
            chain=({'us': 3.0, 'asia': 1.0}, {'eu': 1.0}),
        ),
        Route(
            'shop',
            sender_domains=frozenset({'shop.example'}),
            recipient_domains=frozenset({'*.xn--bcher-kva.example', 'xn--bcher-kva.example'}),
            organizations=frozenset({'42'}),
            chain=({'eu': 1.0},),
        ),
        Route('rest', chain=({'eu': 1.0}, {'us': 1.0})),
    )


@pytest.mark.parametrize(
    ('route', 'reason'),
    [
        (BULK | {'relays': ['mars']}, 'no relay is named mars; there are eu, us, asia'),
        (BULK | {'relays': []}, 'relays: must be a list of relays: '),
        (BULK | {'relays': [['eu']]}, 'relays: each place is the name of a relay'),
        (BULK | {'relays': [{'eu': 0}]}, "relays: the weight of 'eu' must be above 0"),
        (BULK | {'relays': [{'eu': True}]}, "relays: the weight of 'eu' must be a number"),
        (BULK | {'relays': [{'eu': '3'}]}, "relays: the weight of 'eu' must be a number"),
        (BULK | {'relays': ['eu', {'eu': 3}]}, 'relays: eu stands there twice'),
        (BULK | {'email_type': []}, 'email_type: must name something'),
        (BULK | {'email_type': [7]}, 'email_type.0: '),
        (BULK | {'sender_domain': 'a b'}, "sender_domain: 'a b' is no domain: "),
        (BULK | {'recipient_domain': '*'}, "recipient_domain: '*' is no domain: "),
        (BULK | {'mail_type': 'x'}, 'mail_type: no such key; there are name, email_type, '),
        (BULK | {'name': 'default'}, 'name: default is the route without conditions'),
        ({'name': 'bulk', 'relays': ['eu']}, 'it takes all mail, so it must be the last'),
        ({'email_type': 'x', 'relays': ['eu']}, 'name: Field required'),
    ],
)
def test_wrong_route_is_one_line_with_its_name_and_key(
    configure: Configure, route: Any, reason: str
) -> None:
    configure(route, {'name': 'last', 'relays': ['eu']})
    line = refusal()
    called = ' (bulk)' if route.get('name') == 'bulk' else ''
    called = ' (default)' if route.get('name') == 'default' else called
    assert f'ROUTES: entry 1{called}: {reason}' in line
    assert '\n' not in line


def test_two_routes_of_one_name_are_refused(configure: Configure) -> None:
    configure(BULK, BULK)
    assert 'ROUTES: entry 2 (bulk): more than one route has this name' in refusal()


def test_routes_are_shown_as_they_were_given_and_belong_to_the_digest(
    configure: Configure,
) -> None:
    configure(BULK)
    first = load_settings()
    assert view(first)['ROUTES'] == [
        {'name': 'bulk', 'email_type': ['newsletter'], 'relays': [{'us': 1.0}]}
    ]
    configure(BULK | {'relays': ['eu']})
    assert digest(load_settings()) != digest(first)
    assert set(RouteEntry.model_fields) == {
        'name', 'email_type', 'sender_domain', 'recipient_domain', 'organization', 'relays',
    }  # fmt: skip


def test_reload_reads_relays_and_routes_again_and_refuses_wrong_ones(
    configure: Configure,
) -> None:
    configure(BULK)
    live = LiveSettings(load_settings(), load_settings)
    configure(BULK | {'relays': ['mars']})
    with pytest.raises(ValueError, match='no relay is named mars'):
        live.load_relays()
    configure(BULK | {'relays': ['asia']})
    assert [r.relays for r in live.load_relays().table.routes] == [('asia',)]
    assert live.conf()['ROUTES'][0]['relays'] == [{'asia': 1.0}]
