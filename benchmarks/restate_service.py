"""The second peer's handler: a virtual object per key, one step. Runs in an environment of its own, without our code.

python benchmarks/restate_service.py PORT

Served as restate's documentation says for hypercorn: without these limits it closes a connection every 1,000 requests.
"""

import asyncio
import sys
from typing import Any

import restate  # pyright: ignore[reportMissingImports]
from hypercorn.asyncio import serve  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
from hypercorn.config import Config  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

UNLIMITED = 2**31 - 1

orders = restate.VirtualObject("Orders")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def charge() -> str:
    return "receipt"


@orders.handler()  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator]
async def fulfil(ctx: restate.ObjectContext, order: Any) -> None:  # noqa: ARG001  # as ours takes one  # pyright: ignore[reportUnknownMemberType, reportUnknownParameterType]
    await ctx.run_typed("charge", charge)  # pyright: ignore[reportUnknownMemberType]


config = Config()  # pyright: ignore[reportUnknownVariableType]
config.bind = [f"127.0.0.1:{sys.argv[1]}"]
config.h2_max_concurrent_streams = UNLIMITED
config.keep_alive_max_requests = UNLIMITED
config.keep_alive_timeout = UNLIMITED
asyncio.run(serve(restate.app([orders]), config))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
