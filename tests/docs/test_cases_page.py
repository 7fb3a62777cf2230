"""The table of cases in docs/guarantees.md: all there, each with tests that exist or a reason."""

import pytest

from tests import cases
from tests.cases import CASES, PAGE, Case, read, test_files, wanting

PAGE_OF_ONE = '| <a id="case-7"></a>7 | situation | here | {} |\n<a id="why-7"></a>\n'


def test_every_case_is_shown_by_tests_that_exist(request: pytest.FixtureRequest) -> None:
    assert cases.main(request.session) == 0


def test_the_table_has_every_case_once_in_order() -> None:
    assert [case.number for case in read(PAGE.read_text(encoding="utf-8"))] == list(range(1, CASES + 1))


def test_a_test_that_does_not_exist_does_not_count() -> None:
    page = PAGE_OF_ONE.format("`test_cases_page.py::test_that_is_not_there`")
    files = test_files()

    (case,) = read(page)

    assert case == Case(7, "situation", (("test_cases_page.py", "test_that_is_not_there"),), ())
    assert wanting(case, files, frozenset(), page) == ["test_cases_page.py::test_that_is_not_there is no test"]


def test_a_reason_counts_only_if_it_is_on_the_page() -> None:
    for text, lacks in (("cannot happen: [why](#why-7)", 0), ("cannot happen: [why](#why-8)", 1), ("cannot happen", 1)):
        page = PAGE_OF_ONE.format(text)

        (case,) = read(page)

        assert len(wanting(case, {}, frozenset(), page)) == lacks
