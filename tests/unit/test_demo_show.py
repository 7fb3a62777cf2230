"""What the demo says fits the terminal it is said on: a line that wrapped could not be taken back."""

import io

import pytest

from processor.demo.show import Show, State

LONG = State(
    produced=200_000, done=187_654, rate=12_345.6, lag=19_999, in_flight=1_600, dead_letters=401, kills=12, workers=2
)
SHORT = State(produced=5, done=1, rate=0.4, lag=4, in_flight=1, dead_letters=0, kills=0, workers=2)


class Terminal(io.StringIO):
    """A screen: a character too many begins a line of its own, as on any terminal."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.lines = [""]
        self._at = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for character in text:
            if character in "\r\n":
                self._at = 0
                self.lines += [""] if character == "\n" else []
                continue
            if self._at == self.columns:
                self.lines.append("")
                self._at = 0
            line = self.lines[-1]
            self.lines[-1] = line[: self._at] + character + line[self._at + 1 :]
            self._at += 1
        return len(text)


@pytest.mark.parametrize("columns", [200, 118, 117, 80, 40, 10])
def test_the_line_that_renews_itself_stays_one_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal(columns)
    show = Show(terminal)

    for state in (SHORT, LONG, LONG, SHORT, LONG):
        show.state(state)
    shown = [line.rstrip() for line in terminal.lines]
    show.end("{}")

    assert len(shown) == 1
    assert [line.rstrip() for line in terminal.lines] == ["{}", ""]


@pytest.mark.parametrize(
    "columns, said",
    [
        (200, "187,654 done of 200,000  12,346/s  lag 19,999  in flight 1,600  dead letters 401  kills 12  workers 2"),
        (80, "187,654 done of 200,000  12,346/s  lag 19,999  dead letters 401  kills 12"),
        (40, "187,654 done of 200,000  kills 12"),
        (10, "187,654 d"),
    ],
)
def test_what_matters_least_is_left_out_first(columns: int, said: str) -> None:
    assert LONG.fitted(columns).strip() == said


def test_where_lines_stay_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log, which has no width."""
    monkeypatch.setenv("COLUMNS", "40")
    log = io.StringIO()

    Show(log).state(LONG)

    assert log.getvalue().endswith("  workers 2\n")
