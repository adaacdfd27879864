"""The inbox's table of tags and its rules, without any connection."""

import pytest

from dev import inbox
from dev.inbox_faults import TAGS, BadRule, Rules, TagCounter, parse_rule


def test_every_tag_is_in_the_documentation() -> None:
    for tag in TAGS:
        assert f'    {tag} ' in (inbox.__doc__ or '')


def test_recipient_without_tag_has_no_fault() -> None:
    assert TagCounter().take('primary', 'anna@example.com', 'rcpt') is None


def test_unknown_tag_has_no_fault() -> None:
    assert TagCounter().take('primary', 'anna+newsletter@example.com', 'rcpt') is None


@pytest.mark.parametrize(
    'recipient', ['a+5xx-rcpt@example.com', 'a+5XX-RCPT@example.com', 'a+7+5xx-rcpt+x@example.com']
)
def test_tag_is_found_anywhere_after_the_first_plus(recipient: str) -> None:
    fault = TagCounter().take('primary', recipient, 'rcpt')
    assert fault is not None
    assert fault.code == 550


def test_tag_counts_only_at_its_verb() -> None:
    tags = TagCounter()
    assert tags.take('primary', 'a+drop-dot@example.com', 'rcpt') is None
    assert tags.take('primary', 'a+drop-dot@example.com', 'dot') is not None


def test_4xx_twice_counts_for_each_relay_and_recipient() -> None:
    tags = TagCounter()
    for relay in ('primary', 'backup'):
        for recipient in ('a+4xx-twice@example.com', 'b+4xx-twice@example.com'):
            taken = [tags.take(relay, recipient, 'rcpt') is not None for _ in range(3)]
            assert taken == [True, True, False]


def test_drop_dot_wears_off_over_both_relays() -> None:
    tags = TagCounter()
    assert tags.take('primary', 'a+drop-dot@example.com', 'dot') is not None
    assert tags.take('backup', 'a+drop-dot@example.com', 'dot') is None


def test_rule_counts_down_and_ends() -> None:
    rules = Rules()
    rules.set(parse_rule({'relay': 'primary', 'verb': 'mail', 'do': 'drop', 'times': 2}))
    assert [rules.take('primary', 'mail') is not None for _ in range(3)] == [True, True, False]


def test_rule_without_times_lasts_until_cleared() -> None:
    rules = Rules()
    rules.set(parse_rule({'relay': None, 'verb': 'mail', 'do': 'drop'}))
    assert all(rules.take(relay, 'mail') for relay in ('primary', 'backup', 'primary'))
    rules.clear()
    assert rules.take('primary', 'mail') is None


def test_rule_of_one_relay_leaves_the_other_alone() -> None:
    rules = Rules()
    rules.set(parse_rule({'relay': 'backup', 'verb': 'mail', 'do': 'drop'}))
    assert rules.take('primary', 'mail') is None


def test_new_rule_replaces_the_one_for_the_same_verb_and_relay() -> None:
    rules = Rules()
    rules.set(parse_rule({'relay': None, 'verb': 'mail', 'do': 'drop'}))
    rules.set(parse_rule({'relay': None, 'verb': 'mail', 'do': 'refuse', 'code': 450, 'times': 1}))
    fault = rules.take('primary', 'mail')
    assert fault is not None
    assert (fault.do, fault.code) == ('refuse', 450)
    assert rules.take('primary', 'mail') is None


@pytest.mark.parametrize(
    ('command', 'complaint'),
    [
        ({'verb': 'mail'}, 'do must be'),
        ({'verb': 'nonsense', 'do': 'drop'}, 'verb must be'),
        ({'relay': 'third', 'verb': 'mail', 'do': 'drop'}, 'relay must be'),
        ({'verb': 'mail', 'do': 'store-then-drop'}, 'dot only'),
        ({'verb': 'mail', 'do': 'refuse', 'code': 250}, 'code must be'),
        ({'verb': 'mail', 'do': 'drop', 'times': 0}, 'times must be'),
        ({'verb': 'mail', 'do': 'drop', 'times': True}, 'times must be'),
        ({'verb': 'mail', 'do': 'stall', 'seconds': 'long'}, 'seconds must be'),
        ({'verb': 'mail', 'do': 'drop', 'tmies': 1}, 'unknown: tmies'),
    ],
)
def test_bad_rule_is_refused_with_an_explanation(
    command: dict[str, object], complaint: str
) -> None:
    with pytest.raises(BadRule, match=complaint):
        parse_rule(command)
