"""Where the desk shows what a problem is about."""

import pytest

from reporting.kinds import KINDS, found
from reporting.problems import Problem
from reporting.seen_at import SEEN_AT, desk_page, page_of_mail, with_page


def test_every_page_is_of_a_kind_that_there_is():
    assert SEEN_AT.keys() <= KINDS.keys()


@pytest.mark.parametrize('url', ['https://ops.example.com/desk', 'https://ops.example.com/desk/'])
def test_remedy_names_the_command_and_the_page(url):
    problem = with_page(found('dead', '3 e-mails are dead'), url)
    assert '`python -m ops failed --dead` says why' in problem.remedy
    assert problem.remedy.endswith('; or https://ops.example.com/desk/mail?status=dead')
    assert page_of_mail(url, 7) == 'https://ops.example.com/desk/mail/7'


def test_without_an_address_or_a_page_the_remedy_stays_as_it_is():
    dead, other = found('dead', '3 e-mails are dead'), Problem('it is away', 'start it')
    assert with_page(dead, None) == dead
    assert with_page(other, 'https://ops.example.com') == other
    assert desk_page('https://ops.example.com', None) is None
    assert page_of_mail(None, 7) is None
