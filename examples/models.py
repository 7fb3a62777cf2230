"""SQLAlchemy in a transaction: `tx.session`, flushed when the function returns, committed with its record.

processor dev examples.models:app        (in a clone; pip install 'onceflow[sqlalchemy]')
"""

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from processor import App, Topic, Transaction


class Model(DeclarativeBase): ...


class Account(Model):
    __tablename__ = "account"

    name: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int] = mapped_column(default=0)


class Deposit(BaseModel):
    account: str
    cents: int


app = App("models")
deposits = Topic("deposits", Deposit, key=lambda deposit: deposit.account)


@app.transaction(on=deposits)
async def book(tx: Transaction, deposit: Deposit) -> None:
    account = await tx.session.scalar(select(Account).where(Account.name == deposit.account).with_for_update())
    if account is None:
        account = Account(name=deposit.account, cents=0)
        tx.session.add(account)
    account.cents += deposit.cents


@app.transaction()
async def open_account(tx: Transaction, name: str) -> bool:
    """Whether there was none: only what is in the savepoint is rolled back."""
    try:
        async with tx.session.begin_nested():
            tx.session.add(Account(name=name))
            await tx.session.flush()
    except IntegrityError:
        return False
    return True


@app.workflow()
async def sign_up(name: str) -> bool:
    return await open_account(name)
