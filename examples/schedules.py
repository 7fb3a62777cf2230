"""Books that are closed every night, rates that are fetched every 30 seconds: schedules, in local time and at intervals.

processor dev examples.schedules:app        (in a clone)
"""

from datetime import date
from zoneinfo import ZoneInfo

from processor import App, CatchUp, Cron, Retry, Tick, Transaction

PARIS = ZoneInfo("Europe/Paris")

app = App("books")
fetched: list[str] = []


@app.transaction()
async def book(tx: Transaction, day: date) -> None:
    await tx.execute("INSERT INTO closed_day (day) VALUES (%s)", (day,))


@app.workflow(on=Cron("0 3 * * *", timezone="Europe/Paris"))
async def close_day(tick: Tick) -> None:
    """Every night at three, Paris time; nights on which nothing ran are made up, in order."""
    await book(tick.scheduled_at.astimezone(PARIS).date())


@app.step(retry=Retry(attempts=3))
def fetch_rates(at: str) -> int:
    fetched.append(at)
    return len(fetched)


@app.workflow(on=Cron("*/30 * * * * *", catch_up=CatchUp.NONE))
def refresh_rates(tick: Tick) -> None:
    """Every 30 seconds (six fields: the seconds are first); what was missed is of no use any more."""
    fetch_rates(tick.scheduled_at.isoformat())


@app.workflow(on=Cron("0 8 * * MON", timezone="Europe/Paris", catch_up=CatchUp.LATEST))
async def weekly_report(tick: Tick) -> str:
    """Mondays at eight. After an outage of three weeks one report is enough: the newest."""
    return f"report of {tick.scheduled_at.astimezone(PARIS):%G-W%V}"
