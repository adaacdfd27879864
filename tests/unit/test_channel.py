import json

import pytest

from fleet.channel import (
    MAX_COMMAND_BYTES,
    ControlCommand,
    Handler,
    RefusedError,
    chosen_workers,
    is_count,
    is_rate,
    obey,
    read_command,
)

ID = '0123456789abcdef' * 2


def message(**changed):
    return json.dumps({'id': ID, 'command': 'ping', 'arguments': {}} | changed).encode()


def test_well_formed_command_is_read():
    command = read_command(message(command='grow', arguments={'by': 2}))
    assert (command.request_id, command.name, command.arguments) == (ID, 'grow', {'by': 2})


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'not JSON'),
        (b'\xff\xfe', 'not JSON'),
        (b'[' * 4000, 'not JSON'),
        (b'null', 'not an object'),
        (b'{}', 'not an object'),
        (message(extra=1), 'not an object'),
        (message(id='../../etc'), 'hexadecimal'),
        (message(id=ID + '\n'), 'hexadecimal'),
        (message(id=7), 'hexadecimal'),
        (message(command=['ping']), 'a word'),
        (message(arguments=[1]), 'a word'),
        (message(command='x' * MAX_COMMAND_BYTES), 'longer than'),
    ],
)
def test_malformed_command_is_refused_with_its_reason(data, reason):
    with pytest.raises(RefusedError, match=reason):
        read_command(data)


async def fails(_):
    raise ValueError('secret')


HANDLERS = {
    'grow': Handler(lambda a: {'by': a['by']}, {'by': is_count}),
    'fail': Handler(fails),
}


@pytest.mark.parametrize(
    ('name', 'arguments', 'reason'),
    [
        ('exec', {'code': 'x'}, "unknown command 'exec'; known: fail, grow"),
        ('grow', {}, 'grow takes by'),
        ('grow', {'by': 1, 'path': '/'}, 'grow takes by'),
        ('grow', {'by': 0}, 'out of range'),
        ('grow', {'by': True}, 'out of range'),
        ('grow', {'by': '1'}, 'out of range'),
        ('grow', {'by': 10**30}, 'out of range'),
        ('fail', {}, 'failed: ValueError; see the log'),
    ],
)
async def test_command_that_cannot_be_obeyed_is_refused_and_never_raises(name, arguments, reason):
    reply = await obey(HANDLERS, ControlCommand(ID, name, arguments))
    assert reason in reply['refused']
    assert 'secret' not in reply['refused']


async def test_command_that_is_obeyed_replies_what_was_done():
    assert await obey(HANDLERS, ControlCommand(ID, 'grow', {'by': 3})) == {'done': {'by': 3}}


@pytest.mark.parametrize('value', [True, '5', None, -1, float('nan'), float('inf'), 1e9, [1]])
def test_rate_refuses_what_is_no_rate(value):
    assert not is_rate(value)


def test_workers_are_chosen_by_pattern_among_the_known_and_by_their_full_name_otherwise():
    known = ['mail1@a:1', 'mail2@a:2', 'low@b:3']
    assert chosen_workers(['mail*'], known) == ['mail1@a:1', 'mail2@a:2']
    assert chosen_workers(['*@b:*', 'mail1@a:1', 'mail1*'], known) == ['low@b:3', 'mail1@a:1']
    assert chosen_workers(['new@c:4'], known) == ['new@c:4']
    assert chosen_workers(['nobody*'], known) == []
