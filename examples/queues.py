"""Mails that go out no faster than the provider allows, a file per customer at a time, an index that is built once it is quiet."""

from datetime import timedelta

from pydantic import BaseModel

from processor import App, DeduplicatedError, Queue, Topic, WorkflowHandle


class SignedUp(BaseModel):
    email: str


app = App("newsletter")
sent: list[str] = []
imported: list[str] = []
indexed: list[str] = []

mails = app.register_queue(
    Queue("mails", worker_concurrency=20, limit=(100, timedelta(minutes=1)), priority=True),
)
imports = app.register_queue(Queue("imports", concurrency=1, partitioned=True))


@app.step()
async def send(email: str, text: str) -> None:
    """The provider takes a hundred a minute."""
    sent.append(f"{email}: {text}")


@app.workflow()
async def mail(email: str, text: str) -> None:
    await send(email, text)


@app.workflow(on=Topic("signed-up", SignedUp, key=lambda event: event.email))
async def welcome(event: SignedUp) -> None:
    """The welcome goes before the newsletter, however many of that wait."""
    await mails.having(priority=-1).enqueue(mail, event.email, "welcome")


@app.workflow()
async def newsletter(emails: list[str], text: str) -> int:
    handles = [await mails.enqueue(mail, email, text) for email in emails]
    for handle in handles:
        await handle.result()
    return len(handles)


@app.step()
async def load(customer: str, file: str) -> None:
    imported.append(f"{customer}/{file}")


@app.workflow()
async def import_file(customer: str, file: str) -> None:
    await load(customer, file)
    await reindex.debounce(customer, wait=timedelta(seconds=30), max_wait=timedelta(minutes=5)).start(customer)


@app.workflow()
async def reindex(customer: str) -> None:
    indexed.append(customer)


async def upload(customer: str, file: str) -> WorkflowHandle[None]:
    """One file of a customer after the other, in the order of their coming; the same file once at a time."""
    place = imports.having(partition_key=customer, deduplication_id=f"{customer}/{file}")
    try:
        return await place.enqueue(import_file, customer, file)
    except DeduplicatedError as error:
        return import_file.retrieve(error.workflow_id or "")
