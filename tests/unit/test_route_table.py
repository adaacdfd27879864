"""Which route an e-mail takes: a table, and turns by weight."""

from collections import Counter

import pytest

from mail.route_table import Route, RouteTable, SmoothWeights, Traits, is_below

BULK = Route('bulk', email_types=frozenset({'newsletter', 'digest'}), chain=({'us': 1.0},))
BRAND = Route('brand', sender_domains=frozenset({'brand.example'}), chain=({'eu': 1.0},))
GMAIL = Route('gmail', recipient_domains=frozenset({'gmail.com', '*.google.com'}))
TENANT = Route('tenant', frozenset({'receipt'}), organizations=frozenset({'42'}))
REST = Route('rest')
TABLE = RouteTable([BULK, BRAND, GMAIL, TENANT])


@pytest.mark.parametrize(
    ('traits', 'domain', 'route'),
    [
        (Traits('newsletter'), 'example.com', BULK),
        (Traits('newsletter', 'brand.example', '42'), 'gmail.com', BULK),  # the first
        (Traits(None, 'brand.example'), 'example.com', BRAND),
        (Traits(None, 'BRAND.example'), 'example.com', BRAND),
        (Traits(None, 'mail.brand.example'), 'example.com', None),
        (Traits('receipt'), 'gmail.com', GMAIL),
        (Traits('receipt'), 'eu.mail.google.com', GMAIL),
        (Traits('receipt'), 'google.com', None),
        (Traits('receipt'), 'notgmail.com', None),
        (Traits('receipt', None, '42'), 'example.com', TENANT),
        (Traits('welcome', None, '42'), 'example.com', None),  # both conditions
        (Traits(), '', None),
    ],
)
def test_first_route_whose_conditions_are_all_met_is_taken(
    traits: Traits, domain: str, route: Route | None
) -> None:
    assert TABLE.route_of(traits, domain) == route


def test_recipients_are_split_by_route_and_nobody_is_lost() -> None:
    recipients = ('a@gmail.com', 'b@example.com', 'c@GMAIL.com', 'd@example.org')
    assert TABLE.split(Traits('receipt'), recipients) == [
        (GMAIL, ('a@gmail.com', 'c@GMAIL.com')),
        (None, ('b@example.com', 'd@example.org')),
    ]
    assert TABLE.split(Traits('digest'), recipients) == [(BULK, recipients)]


def test_routes_that_a_type_may_take_end_with_the_first_that_takes_all_of_it() -> None:
    assert TABLE.routes_of_type('newsletter') == [BULK]
    assert TABLE.routes_of_type('receipt') == [BRAND, GMAIL, TENANT, None]
    assert RouteTable([TENANT, REST]).routes_of_type('welcome') == [REST]
    assert TABLE.email_types == {'newsletter', 'digest', 'receipt'}


@pytest.mark.parametrize(
    ('domain', 'wanted', 'expected'),
    [
        (None, set(), True),
        (None, {'example.com'}, False),
        ('a.b.example.com', {'*.example.com'}, True),
        ('example.com', {'*.example.com'}, False),
        ('com', {'*.com'}, False),
    ],
)
def test_domain_is_one_of_those_wanted_or_below_it(
    domain: str | None, wanted: set[str], *, expected: bool
) -> None:
    assert is_below(domain, frozenset(wanted)) is expected


def turns(weights: SmoothWeights, usable: str, number: int) -> str:
    return ''.join(weights.order([*usable], take=True)[0] for _ in range(number))


def test_turns_are_spread_evenly_and_the_same_each_time() -> None:
    assert turns(SmoothWeights({'a': 5, 'b': 1, 'c': 1}), 'abc', 7) == 'aabacaa'  # nginx's example
    assert turns(SmoothWeights({'a': 1, 'b': 1}), 'ab', 4) == 'abab'
    assert turns(SmoothWeights({'a': 3, 'b': 1}), 'ab', 8) == 'aabaaaba'
    assert Counter(turns(SmoothWeights({'a': 0.5, 'b': 2}), 'ab', 100)) == {'a': 20, 'b': 80}


def test_look_takes_no_turn_and_one_that_is_away_gains_none() -> None:
    weights = SmoothWeights({'a': 1, 'b': 1})
    assert [weights.order('ab', take=False) for _ in range(2)] == [['a', 'b']] * 2
    assert turns(weights, 'b', 50) == 'b' * 50
    assert turns(weights, 'ab', 6) in ('ababab', 'bababa')
    assert weights.order([], take=True) == []
