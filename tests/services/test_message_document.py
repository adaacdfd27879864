"""docs/message.md: what it shows is what works, in its order, and is sent."""

import ast
import re
import shlex
import types

import mail_outbox
from jobs.send_email import send_email
from mail.route import Relays
from tests.conftest import ROOT
from tests.services.ops_desk import run
from tests.unit.scripted_relay import ScriptedRelay

BLOCKS = re.findall(
    r'^```(sh|python|sql)\n(.*?)^```$',
    (ROOT / 'docs/message.md').read_text(),
    re.MULTILINE | re.DOTALL,
)
PARTS = {'pdf_bytes': b'%PDF-1.7', 'png_bytes': b'\x89PNG'}


async def execute(code: str, names: dict) -> None:
    compiled = compile(code, 'message.md', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = types.FunctionType(compiled, names)()
    if done is not None:
        await done


async def execute_sql(conn, code: str) -> None:
    """Run each statement as a person does who reads the id that the first one told."""
    insert, *rest = (statement for statement in code.split(';\n') if statement.strip())
    email_id = await conn.fetchval(insert)
    for statement in rest:
        data = statement.replace('(505,', f'({email_id},').replace('...', '')
        await conn.execute(data.rstrip(';\n'))


async def test_everything_it_shows_is_queued_and_sent(env, ctx, pool, mongo):
    assert [kind for kind, _ in BLOCKS].count('python') > 5
    async with pool.acquire() as conn:
        names = {**vars(mail_outbox), **PARTS, 'conn': conn, 'mongo': mongo}
        for kind, code in BLOCKS:
            if kind == 'sh':
                for line in code.splitlines():
                    _, _, ops, *words = shlex.split(line)
                    assert ops == 'ops'
                    assert not (await run(env, *words, '--yes')).problems
            elif kind == 'python':
                await execute(code, names)
            else:
                await execute_sql(conn, code)
    ids = [row['id'] for row in await pool.fetch('SELECT id FROM outbound_emails ORDER BY id')]
    async with ScriptedRelay() as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        results = [await send_email(ctx, email_id) for email_id in ids]
    assert [result['status'] for result in results] == ['sent'] * 7
    attached = await pool.fetch('SELECT DISTINCT email_id FROM email_attachments')
    assert len(attached) == 2
