"""Acts that want a reason get one that says something."""

import pytest

from processor.cli import command_parser


@pytest.mark.parametrize(
    "words",
    [
        "partitions pause orders-0 --group shop",
        "partitions seek orders-0 --group shop --to 5",
        "queues pause mails",
        "queues resume mails",
        "outbox discard 1",
        "outbox resume",
        "executors end x",
    ],
)
@pytest.mark.parametrize("note", ["", "  "])
def test_an_empty_one_is_refused(words: str, note: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        command_parser().parse_args([*words.split(), "--note", note])
    assert exited.value.code == 2
    assert "--note: is empty: say why; it is recorded" in capsys.readouterr().err
