"""`processor dev`: what it says of its pretend broker."""

import pytest

from consumers.telemetry import PartitionHalted
from engine.ids import SourceRef
from processor.cli.dev import (
    _for_development,  # pyright: ignore[reportPrivateUsage]
    _say_what_is_the_brokers,  # pyright: ignore[reportPrivateUsage]
)
from processor.config import Settings

PLACE = SourceRef("shop", "fulfil", "orders", 0)


def test_records_that_the_pretend_broker_pushed_out_are_told_as_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    _say_what_is_the_brokers(PartitionHalted(PLACE, "the log was truncated"))
    assert capsys.readouterr().out == ""

    _say_what_is_the_brokers(PartitionHalted(PLACE, "retention passed the progress: offsets [0, 3) are gone"))
    assert "keeps the last 5 MiB of a partition" in capsys.readouterr().out


def test_every_port_is_within_reach_of_this_machine_only() -> None:
    settings = Settings.model_validate({"web": {"enabled": True}})
    here = _for_development(settings, "postgresql://x", "127.0.0.1:1")
    assert (here.http.host, here.web.host, here.web.enabled) == ("127.0.0.1", "127.0.0.1", True)
