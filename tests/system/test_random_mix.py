"""Twenty seconds of `make system` for each protocol: all kinds of handlers, all faults, by a seed that is printed (I1 to I8)."""

from random import Random

import pytest

from tests.system import random_mix

MINUTES = 0.35


@pytest.mark.private_kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", [0, 1], ids=["classic", "consumer"])
async def test_random_faults_over_every_kind_of_handler(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    """`make system SEED=… MINUTES=0.35` repeats it; it starts a Kafka and a Postgres of its own."""
    seed = 2 * Random().randrange(10**6) + protocol

    code = await random_mix.run(seed, MINUTES)

    assert code == 0, capsys.readouterr().out
