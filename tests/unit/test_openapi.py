"""docs/openapi.json is what the API says of itself, and nothing in it vanishes unseen."""

import copy
import json

import pytest

from dev.openapi import DOCUMENT, as_text, breaking, describe

HERE = describe()


def test_file_is_what_the_api_says_of_itself():
    assert DOCUMENT.read_text() == as_text(HERE), (
        'python -m dev.openapi writes it anew, and names what would break clients'
    )


def test_nothing_is_missing_that_clients_know():
    assert breaking(json.loads(DOCUMENT.read_text()), HERE) == [], (
        'keep it, or see python -m dev.openapi --help'
    )


def test_no_description_loads_anything_and_every_operation_has_a_name_and_a_token():
    for path, operations in HERE['paths'].items():
        for method, operation in operations.items():
            assert operation['operationId'], path
            assert operation['summary'], path
            assert operation['security'] == [{'HTTPBearer': []}], (path, method)
            assert {'401', '403', '422', '429', '503'} <= operation['responses'].keys(), path


LIST = '/api/emails'
RETRY = '/api/emails/{email_id}/retry'
MANY = '/api/emails/retry'


def changed(*keys, value=None, remove=False):
    """The description with one place changed."""
    document = copy.deepcopy(HERE)
    place = document
    for key in keys[:-1]:
        place = place[key]
    if remove:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return document


def without_parameter(name):
    document = copy.deepcopy(HERE)
    operation = document['paths'][LIST]['get']
    operation['parameters'] = [p for p in operation['parameters'] if p['name'] != name]
    return document


SCHEMAS = ('components', 'schemas')


@pytest.mark.parametrize(
    ('after', 'told'),
    [
        (changed('paths', LIST, remove=True), 'GET /api/emails is gone'),
        (changed('paths', RETRY, 'post', 'responses', '409', remove=True), 'answers 409 no more'),
        (changed(*SCHEMAS, 'EmailRow', 'properties', 'sent_at', remove=True),
            'GET /api/emails: 200: emails: []: the field sent_at is gone'),
        (changed(*SCHEMAS, 'EmailRow', 'properties', 'id', value={'type': 'string'}),
            'id: integer is now string'),
        (without_parameter('recipient'), 'takes no query parameter recipient any more'),
        (changed(*SCHEMAS, 'RetryMany', 'properties', 'reason', remove=True),
            'the body takes no field reason any more'),
        (changed(*SCHEMAS, 'RetryMany', 'required', value=['status', 'limit']),
            'the body wants the field limit'),
        (changed(*SCHEMAS, 'RetryMany', 'properties', 'status', 'enum', value=['failed']),
            "the body takes no 'dead' any more"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_breaks_clients_is_named(after, told):
    assert any(told in what for what in breaking(HERE, after)), breaking(HERE, after)


def test_what_is_added_breaks_nobody():
    after = copy.deepcopy(HERE)
    after['paths']['/api/more'] = after['paths'][LIST]
    after['components']['schemas']['EmailRow']['properties']['more'] = {'type': 'string'}
    after['paths'][RETRY]['post']['responses']['418'] = {'description': 'more'}
    assert breaking(HERE, after) == []
