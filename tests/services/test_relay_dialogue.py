"""`ops relay test`: each step of a dialogue, with its time, without mail."""

import json
from typing import Any

import pytest

from tests.services.ops_desk import closed_port, ops
from tests.unit.scripted_relay import DROP, OFFERS_AUTH, ScriptedRelay

BYE = {'QUIT': '221 2.0.0 bye'}


def entry(port: int, **keys: Any) -> dict[str, str]:
    place = {'name': 'eu', 'host': '127.0.0.1', 'port': port, 'tls': 'none'}
    return {'RELAYS': json.dumps([place | keys])}


def of(document: Any, step: str) -> Any:
    return next(told for told in document['steps'] if told['step'] == step)


async def test_dialogue_with_tls_and_login_is_told_step_by_step(env, inbox):
    told = await ops(env, 'relay', 'test', 'primary', '--json')
    assert told.status == 0, told.err
    steps = told.document['steps']
    assert [step['step'] for step in steps] == [
        'resolve', 'connect', 'greeting', 'EHLO', 'STARTTLS', 'AUTH', 'MAIL FROM', 'RSET', 'QUIT',
    ]  # fmt: skip
    assert all(step['is_good'] and step['took_ms'] >= 0 for step in steps)
    assert of(told.document, 'connect')['said'] == '127.0.0.1'
    assert of(told.document, 'greeting')['said'].startswith('220 ')
    assert 'STARTTLS' in of(told.document, 'EHLO')['said']
    assert 'TLSv1.3' in of(told.document, 'STARTTLS')['said']
    assert 'certificate for localhost' in of(told.document, 'STARTTLS')['said']
    assert of(told.document, 'AUTH')['said'].startswith('by ')
    assert env['SMTP_PASSWORD'] not in told.out
    shown = await ops(env, 'relay', 'test', 'primary')
    assert 'MAIL FROM' in shown.out


async def test_no_recipient_is_named_and_the_sender_is_taken_back(env):
    async with ScriptedRelay(BYE) as server:
        told = await ops(
            env | entry(server.port), 'relay', 'test', 'eu', '--from', 'me@example.com', '--json'
        )
        assert told.status == 0, told.err
        assert server.sessions[0].lines[1:] == ['MAIL FROM:<me@example.com>', 'RSET', 'QUIT']


@pytest.mark.parametrize(
    ('script', 'keys', 'step', 'said'),
    [
        ({'GREETING': '554 5.7.1 go away'}, {}, 'greeting', '554 5.7.1 go away'),
        ({'GREETING': DROP}, {}, 'greeting', ''),
        ({'EHLO': '550 5.7.1 who are you'}, {}, 'EHLO', '5.7.1 who are you'),
        ({}, {'tls': 'starttls'}, 'STARTTLS', 'STARTTLS'),
        ({}, {'tls': 'implicit'}, 'greeting', ''),
        (
            {'EHLO': OFFERS_AUTH, 'AUTH': '535 5.7.8 no'},
            {'user': 'shop', 'password': 'hunter2'},
            'AUTH',
            '535 5.7.8 no',
        ),
        ({'MAIL': '553 5.7.1 not you'}, {}, 'MAIL FROM', '553 5.7.1 not you'),
        ({'RSET': DROP}, {}, 'RSET', ''),
    ],
)
async def test_step_that_fails_is_the_last_or_named_with_what_was_said_and_a_remedy(
    env, script, keys, step, said
):
    async with ScriptedRelay(BYE | script) as server:
        told = await ops(env | entry(server.port, **keys), 'relay', 'test', 'eu', '--json')
        assert told.status == 1
        failed = [one for one in told.document['steps'] if not one['is_good']]
        assert [one['step'] for one in failed] == [step]
        assert said in failed[0]['said']
        assert f'the relay eu (127.0.0.1:{server.port}) fails at {step}: ' in str(told.document)
        assert 'hunter2' not in told.out + told.err
        assert not {'RCPT', 'DATA'} & set(server.verbs)


async def test_relay_that_is_not_there_ends_at_its_step(env):
    nobody = await ops(env | entry(closed_port()), 'relay', 'test', 'eu', '--json')
    assert (nobody.status, nobody.document['steps'][-1]['step']) == (1, 'connect')
    unknown = await ops(
        env | entry(1, host='no-such-host.invalid'), 'relay', 'test', 'eu', '--json'
    )
    assert (unknown.status, [s['step'] for s in unknown.document['steps']]) == (1, ['resolve'])
    unnamed = await ops(env, 'relay', 'test', 'mars')
    assert unnamed.status == 2
    assert 'no relay is named mars' in unnamed.err
    assert (await ops(env, 'relay', 'test', 'primary', '--from', 'nobody')).status == 2
