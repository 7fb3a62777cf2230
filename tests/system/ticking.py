"""An app with a schedule of every second, whose effect fails if it is there already: what the workers of a test run."""

from datetime import datetime

from processor import App, Cron, Tick, Transaction

app = App("ticking")


@app.step()
def look(at: datetime) -> str:
    return at.isoformat()


@app.transaction()
async def book(tx: Transaction, at: datetime, seen: str) -> None:
    await tx.execute("INSERT INTO ticked (at, seen) VALUES (%s, %s)", (at, seen))


@app.workflow(on=Cron("* * * * * *"))
async def tick(tick: Tick) -> None:
    seen = await app.run_step(look, tick.scheduled_at)
    await book(tick.scheduled_at, seen)
