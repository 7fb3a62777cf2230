"""Columns of many rows as parameters of one statement."""

from engine.store.columns import NULL, SEPARATOR, packed


def test_a_column_of_texts_travels_as_one_text() -> None:
    made = packed(["a-0", "a-1"], {"outputs": ['"x"', '"y"']})

    assert made["ids"].split(made["separator"]) == ["a-0", "a-1"]
    assert made["outputs"].split(made["separator"]) == ['"x"', '"y"']
    assert made["one_outputs"] is None


def test_a_column_of_one_value_is_sent_once_and_the_ids_always_as_a_column() -> None:
    made = packed(["a-0"], {"outputs": ["null"], "errors": [None]}, {"keys": [7]})

    assert (made["outputs"], made["one_outputs"]) == (None, "null")
    assert (made["errors"], made["one_errors"]) == (None, None)
    assert (made["keys"], made["one_keys"]) == (None, 7)
    assert made["ids"] == "a-0"


def test_integers_travel_as_an_array_literal() -> None:
    made = packed(["a-0", "a-1", "a-2"], {}, {"keys": [-7, None, 9]})

    assert made["keys"] == "{-7,NULL,9}"


def test_a_value_with_the_separator_in_it_has_another_one_chosen() -> None:
    """P27: whatever a value holds, it is not the fault of the others in its flush."""
    strange = ["a" + SEPARATOR + "b", "c"]

    made = packed(["a-0", "a-1"], {"errors": strange})

    assert made["separator"] != SEPARATOR
    assert made["errors"].split(made["separator"]) == strange
    assert made["ids"].split(made["separator"]) == ["a-0", "a-1"]


def test_a_value_that_is_the_word_for_null_stays_itself() -> None:
    made = packed(["a-0", "a-1"], {"errors": [NULL, None]})

    assert made["null"] != NULL
    assert made["errors"].split(made["separator"]) == [NULL, made["null"]]
