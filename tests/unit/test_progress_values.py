"""What stands as a partition's progress and is none: whose it is, is said (I3)."""

import pytest

from engine.errors import ConfigurationError
from engine.partitions import Place
from engine.progress import Progress


@pytest.mark.parametrize("value", [None, "", "null", "7", "[]", "garbage", '{"next": 1}', '{"next": 1, "newer": 2}'])
def test_a_value_that_is_no_progress_is_named(value: str | None) -> None:
    with pytest.raises(ConfigurationError, match=r"progress of shop\|orders-3"):
        Progress.decode(value, Place("shop", "orders-3"))
