"""SPF as receivers evaluate it (RFC 7208)."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail.spf import COUNTED, SpfVerdict, check_host
from mail.spf_terms import SpfResult

HERE, SIX = '192.0.2.1', '2001:db8::1'
Zone = Mapping[tuple[str, str], list[str] | None]


async def verdict(zone: Zone, address: str | None = HERE, sender: str | None = None) -> SpfVerdict:
    async def ask(name: str, kind: str) -> list[str] | None:
        return zone.get((name, kind), [])

    return await check_host(
        ask, 'example.com', None if address is None else ip_address(address), sender
    )


def record(text: str, **more: list[str] | None) -> Zone:
    """example.com's record; more are `name__TYPE`, an underscore for each dot."""
    others = {
        (name.rpartition('__')[0].replace('_', '.'), name.rpartition('__')[2]): found
        for name, found in more.items()
    }
    return {('example.com', 'TXT'): ['something else', f'v=spf1 {text}'], **others}


@pytest.mark.parametrize(
    ('text', 'address', 'result'),
    [
        ('ip4:192.0.2.0/24 -all', HERE, 'pass'),
        ('ip4:192.0.2.0/24 -all', '198.51.100.1', 'fail'),
        ('ip4:192.0.2.0/24 ~all', SIX, 'softfail'),
        ('ip6:2001:db8::/32 ?all', SIX, 'pass'),
        ('ip4:192.0.2.1', f'::ffff:{HERE}', 'pass'),
        ('-ip4:192.0.2.1 +all', HERE, 'fail'),
        ('', HERE, 'neutral'),
        ('IP4:192.0.2.1 -ALL', HERE, 'pass'),
        ('foo=bar exp=why.example.com -all', HERE, 'fail'),
        ('ip4:192.0.2.256', HERE, 'permerror'),
        ('ip4:2001:db8::1', HERE, 'permerror'),
        ('ip4:192.0.2.0/33', HERE, 'permerror'),
        ('ip4:192.0.2.0/024', HERE, 'permerror'),
        ('ip4', HERE, 'permerror'),
        ('all:example.com', HERE, 'permerror'),
        ('include', HERE, 'permerror'),
        ('a:localhost', HERE, 'permerror'),
        ('a/33 -all', HERE, 'permerror'),
        ('exists:%{x}.example.com', HERE, 'permerror'),
        ('exists:%{d0}.example.com', HERE, 'permerror'),
        ('ipv4:192.0.2.1', HERE, 'permerror'),
        ('redirect=a.example.com redirect=b.example.com', HERE, 'permerror'),
        ('ip4:192.0.2.1 nonsense', HERE, 'permerror'),  # behind what matches, too
        (f'include:{"a." * 300}com', HERE, 'permerror'),
    ],
)
async def test_record_by_itself(text: str, address: str, result: str) -> None:
    assert (await verdict(record(text), address)).result == result


@pytest.mark.parametrize(
    ('zone', 'result', 'lookups'),
    [
        (record('a -all', example_com__A=[HERE]), 'pass', 1),
        (record('a:www.example.com/24 -all', www_example_com__A=['192.0.2.200']), 'pass', 1),
        (record('a//64 -all', example_com__A=[HERE]), 'pass', 1),
        (
            record('mx -all', example_com__MX=['10 mx.example.net.'], mx_example_net__A=[HERE]),
            'pass',
            1,
        ),
        (
            record('mx -all', example_com__MX=[f'1 m{n}.example.net.' for n in range(11)]),
            'permerror',
            1,
        ),
        (
            record(
                'exists:%{ir}.list.example.net -all',
                **{'1_2_0_192_list_example_net__A': ['127.0.0.2']},
            ),
            'pass',
            1,
        ),
        (
            record(
                'exists:%{l}.%{d2}.example.net -all', shop_example_com_example_net__A=['127.0.0.2']
            ),
            'pass',
            1,
        ),
        (
            record('include:a.example.net -all', a_example_net__TXT=['v=spf1 ip4:192.0.2.1 -all']),
            'pass',
            1,
        ),
        (record('include:a.example.net ~all', a_example_net__TXT=['v=spf1 -all']), 'softfail', 1),
        (record('include:a.example.net ~all'), 'permerror', 1),  # which has none
        (
            record('redirect=a.example.net', a_example_net__TXT=['v=spf1 ip4:192.0.2.1 -all']),
            'pass',
            1,
        ),
        (record('redirect=a.example.net'), 'permerror', 1),
        (record('include:a.example.net -all', a_example_net__TXT=None), 'temperror', 1),
        (record('include:example.com -all'), 'permerror', COUNTED + 1),  # itself, without end
        (
            record('a:n1.example.net a:n2.example.net a:n3.example.net -all'),
            'permerror',
            3,
        ),  # nothing
        (record('ptr -all'), 'fail', 1),
    ],
)
async def test_record_that_leads_to_others(zone: Zone, result: str, lookups: int) -> None:
    found = await verdict(zone, sender='shop@example.com')
    assert (found.result, found.lookups) == (result, lookups)


async def test_ten_lookups_are_allowed_and_the_number_is_told_beyond() -> None:
    zone = {
        (f'n{n}.example.net', 'TXT'): ['v=spf1 ip4:198.51.100.1'] for n in range(12)
    }  # fmt: skip

    def including(count: int) -> Zone:
        text = ' '.join(f'include:n{n}.example.net' for n in range(count))
        return {**zone, **record(f'{text} -all')}

    ten, twelve = await verdict(including(10), None), await verdict(including(12), None)
    assert (ten.result, ten.lookups, ten.why) == (SpfResult.FAIL, 10, None)
    assert (twelve.result, twelve.lookups) == (SpfResult.PERMERROR, 12)
    assert twelve.why == '12 lookups, and 10 are allowed'


async def test_two_records_are_none() -> None:
    zone = {('example.com', 'TXT'): ['v=spf1 -all', 'v=spf1 +all']}
    assert (await verdict(zone)).result is SpfResult.PERMERROR
    assert (await verdict({('example.com', 'TXT'): ['v=spf10 -all']})).result is SpfResult.NONE


async def test_every_mechanism_is_reached_without_an_address() -> None:
    zone = record(
        'include:a.example.net include:%{ir}.b.example.net a:www.example.com ~all',
        a_example_net__TXT=['v=spf1 include:AmazonSES.com -all'],
        amazonses_com__TXT=['v=spf1 ip4:198.51.100.0/24 -all'],
    )
    found = await verdict(zone, None)
    assert {'include:amazonses.com', 'ip4:198.51.100.0/24', 'a:www.example.com'} <= found.reached
    assert (found.result, found.lookups) == (SpfResult.SOFTFAIL, 4)


@given(st.text(max_size=200))
async def test_any_text_ends_in_a_result(text: str) -> None:
    assert (await verdict(record(text))).result in SpfResult
