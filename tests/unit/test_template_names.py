"""Templates by their names."""

import pytest

from mail_outbox.template_names import template_id_of


@pytest.mark.parametrize(
    'text', ['007', '0', '9' * 19, '9' * 5000, '\u0663', '-1', '1.0', 'abc', '']
)
def test_an_id_that_a_number_would_not_give_back_stays_text(text: str) -> None:
    assert template_id_of(text) == text


@pytest.mark.parametrize(('text', 'number'), [('7', 7), ('9' * 18, 10**18 - 1)])
def test_a_number_is_one(text: str, number: int) -> None:
    assert template_id_of(text) == number
