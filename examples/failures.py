"""What may go wrong, and what happens then: retries of a step, of a workflow, and what follows the last attempt."""

from datetime import timedelta

from pydantic import BaseModel

from processor import App, BlockKey, Retry, RetryAfterError, StepFailedError, TerminalError, Topic, current_workflow


class Parcel(BaseModel):
    parcel_id: str
    address: str
    heavy: bool = False


class CarrierBusyError(Exception):
    """The carrier has no car just now."""


app = App("shipping")
parcels = Topic("parcels", Parcel, key=lambda parcel: parcel.parcel_id)
asked: list[str] = []


@app.step(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=10), on=(CarrierBusyError, TimeoutError)))
async def order_car(parcel: Parcel) -> str:
    """Tried three times, for these errors only; then the workflow gets StepFailedError."""
    asked.append(parcel.parcel_id)
    if not parcel.address:
        raise TerminalError(f"parcel {parcel.parcel_id}: no address")  # no further try can help
    if parcel.heavy:
        raise CarrierBusyError("no lorry")
    return f"car for {parcel.parcel_id}"


@app.step()
async def order_lorry(parcel: Parcel) -> str:
    """One try. The workflow's own `retry` runs it again, later."""
    asked.append(f"lorry {parcel.parcel_id}")
    if current_workflow().attempt == 1:
        raise RetryAfterError(timedelta(milliseconds=20), "the office opens at eight")
    return f"lorry for {parcel.parcel_id}"


@app.workflow(on=parcels, retry=Retry(attempts=4), on_failure=BlockKey())
async def ship(parcel: Parcel) -> str:
    """Heavy parcels go by lorry. What fails for good blocks its key: later records of the parcel wait."""
    if parcel.heavy:
        return await order_lorry(parcel)
    return await order_car(parcel)


@app.workflow(on=Topic("returns", Parcel, key=lambda parcel: parcel.parcel_id))
async def take_back(parcel: Parcel) -> str:
    """A workflow may handle a step's failure itself: the failure is recorded, and a replay takes the same way."""
    try:
        return await order_car(parcel)
    except StepFailedError:
        return "by post"
