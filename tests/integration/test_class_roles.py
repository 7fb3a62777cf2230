"""Roles of all workflows of a class: for its methods and its functions, unless one says its own."""

import pytest
from pydantic import BaseModel

from processor import App, ConfigurationError, Identity, NotAuthorizedError, Topic, acting_as
from processor.testing import Bench

CLERK, CUSTOMER = Identity("ada", ("clerk",)), Identity("bob", ("customer",))


class Paper(BaseModel):
    name: str


class Offices:
    """A class of an app that requires another role."""

    def __init__(self) -> None:
        self.app = app = App("offices", required_roles=["customer"])

        @app.requires("clerk")
        class Office:
            @app.workflow()
            async def file(self, paper: str) -> str:
                return await Office.stamp(paper)

            @app.workflow(roles=())
            async def look(self) -> str:
                return "open"

            @staticmethod
            @app.workflow()
            async def stamp(paper: str) -> str:
                return f"{paper} stamped"

            @staticmethod
            @app.post("/papers")
            async def hand_in(paper: Paper) -> str:
                return paper.name

        @app.workflow()
        async def ask() -> str:
            return "asked"

        self.Office, self.ask = Office, ask
        self.office = app.instance("main", Office())


async def test_a_class_says_what_its_workflows_require_and_each_of_them_may_say_otherwise(database: str) -> None:
    offices = Offices()
    async with Bench(offices.app, database) as bench:
        with acting_as(CUSTOMER):
            with pytest.raises(NotAuthorizedError, match=r"Office\.file'.* requires: clerk"):
                await offices.office.file.start("a")
            asked = await offices.ask()
        with acting_as(CLERK):
            filed = await offices.office.file("a")
        looked = await offices.office.look()
        statuses = [
            (await bench.http(identity=who).post("/papers", json={"name": "a"})).status for who in (CUSTOMER, CLERK)
        ]

        assert (asked, filed, looked) == ("asked", "a stamped", "open")
        assert statuses == [403, 202]


def test_what_a_class_cannot_require_is_refused() -> None:
    app, orders = App("offices"), Topic("orders", Paper)

    class Office:
        @staticmethod
        @app.workflow(on=orders)
        async def fulfil(order: Paper) -> None:
            pass

    with pytest.raises(ConfigurationError, match="says whose it is"):
        app.requires("clerk")(Office)
    app.requires()(Office)
    with pytest.raises(ConfigurationError, match="requires roles already"):
        app.requires("clerk")(Office)
    with pytest.raises(ConfigurationError, match="no workflow of app 'offices'"):
        app.requires("clerk")(Paper)
    with pytest.raises(ConfigurationError, match="a method; nobody says of which object a record or request is"):

        class Gate:  # pyright: ignore[reportUnusedClass]  # its body is what is refused
            @app.post("/open")
            async def open(self) -> None:
                pass
