"""What an application does with Resend's SDK for Python; prints what it was answered."""

import json
from datetime import UTC, datetime, timedelta

import resend
from resend.exceptions import ResendError

HELLO = {
    'from': 'Shop <noreply@example.com>', 'to': 'anna@example.com', 'subject': 'Hello',
    'text': 'Hello.',
}  # fmt: skip


def ask(function, *arguments):
    """Return {'data': ...} or {'error': ...}, as the SDK for Node has it."""
    try:
        answer = dict(function(*arguments))
    except ResendError as error:
        kind = type(error).__name__
        return {
            'error': {
                'statusCode': error.code,
                'name': error.error_type,
                'message': error.message,
                'kind': kind,
            }
        }
    answer.pop('http_headers')
    return {'data': answer}


def main() -> None:
    """Ask everything."""
    told = {}
    told['sent'] = ask(
        resend.Emails.send,
        HELLO
        | {
            'to': ['anna@example.com', 'Ben <ben@example.com>'],
            'cc': 'carl@example.com',
            'bcc': ['dora@example.com'],
            'reply_to': 'support@example.com',
            'html': '<p>Hello <img src="cid:logo"></p>',
            'headers': {'X-Order': '12'},
            'tags': [{'name': 'campaign', 'value': 'may'}],
            'attachments': [
                {'filename': 'a.txt', 'content': list(b'from python')},
                {
                    'filename': 'logo.png',
                    'content': 'iVBORw==',
                    'content_type': 'image/png',
                    'content_id': 'logo',
                },
            ],
        },
    )
    told['own'] = ask(resend.Emails.send, HELLO | {'priority': 'high', 'email_type': 'receipt'})
    two = [HELLO, HELLO | {'subject': 'Second'}]
    one_wrong = [HELLO, HELLO | {'to': 'nobody'}]
    told['batch'] = ask(resend.Batch.send, two)
    told['strict'] = ask(resend.Batch.send, one_wrong)
    told['permissive'] = ask(resend.Batch.send, one_wrong, {'batch_validation': 'permissive'})
    key = {'idempotency_key': 'python/1'}
    told['first'] = ask(resend.Emails.send, HELLO, key)
    told['again'] = ask(resend.Emails.send, HELLO, key)
    told['conflict'] = ask(resend.Emails.send, HELLO | {'subject': 'Other'}, key)
    told['scheduled'] = ask(resend.Emails.send, HELLO | {'scheduled_at': 'in 1 hour'})
    email_id = told['scheduled']['data']['id']
    told['later'] = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    told['updated'] = ask(resend.Emails.update, {'id': email_id, 'scheduled_at': told['later']})
    told['shown'] = ask(resend.Emails.get, email_id)
    told['cancelled'] = ask(resend.Emails.cancel, email_id)
    told['late'] = ask(resend.Emails.cancel, email_id)
    told['listed'] = ask(resend.Emails.list, {'limit': 2})
    after = told['listed']['data']['data'][1]['id']
    told['next'] = ask(resend.Emails.list, {'limit': 2, 'after': after})
    told['invalid'] = ask(resend.Emails.send, HELLO | {'to': 'nobody'})
    told['missing'] = ask(
        resend.Emails.send, {name: value for name, value in HELLO.items() if name != 'subject'}
    )
    told['elsewhere'] = ask(resend.Domains.list)
    told['unknown'] = ask(resend.Emails.get, '999999')
    file = {'path': 'http://127.0.0.1/x', 'filename': 'x'}
    told['fetched'] = ask(resend.Emails.send, HELLO | {'attachments': [file]})
    resend.api_key = 're_123'
    told['stranger'] = ask(resend.Emails.send, HELLO)
    print(json.dumps(told))  # noqa: T201 - read by the test


if __name__ == '__main__':
    main()
