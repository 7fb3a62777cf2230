"""Sign-ups that are reminded after three days: durable sleep, child workflows, a time-out, starts by a call.

processor dev examples.reminders:app        (in a clone)
"""

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from processor import App, WorkflowCancelledError, WorkflowHandle, sleep, sync

REMIND_AFTER = timedelta(days=3)
ANSWER_WITHIN = timedelta(days=30)


class SignUp(BaseModel):
    user_id: str
    channels: list[str] = ["mail"]


app = App("reminders")
sent: list[str] = []


@app.step()
async def send(channel: str, text: str) -> str:
    sent.append(f"{channel}: {text}")
    return channel


@app.workflow()
async def notify(channel: str, user_id: str) -> str:
    return await send(channel, f"welcome back, {user_id}")


@app.workflow()
async def remind(sign_up: SignUp) -> list[str]:
    await sleep(REMIND_AFTER)  # costs a row, whatever happens to this process
    return list(await asyncio.gather(*(notify(channel, sign_up.user_id) for channel in sign_up.channels)))


@app.workflow()
def follow_up(user_id: str) -> str:
    """The same without async: it has no thread while it sleeps."""
    sync.sleep(ANSWER_WITHIN * 2)
    return notify.start_sync("letter", user_id).result()


async def sign_up(user_id: str) -> WorkflowHandle[list[str]]:
    """For a web handler: durable when it returns; signing up twice reminds once."""
    await follow_up.start(user_id, id=f"follow-up-{user_id}", timeout=ANSWER_WITHIN)
    return await remind.start(SignUp(user_id=user_id, channels=["mail", "push"]), id=f"remind-{user_id}")


async def was_followed_up(user_id: str) -> bool:
    try:
        await follow_up.retrieve(f"follow-up-{user_id}").result()
    except WorkflowCancelledError:
        return False
    return True
