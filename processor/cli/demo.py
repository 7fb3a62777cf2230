"""`processor demo`: everything on this machine, with workers killed while they work, and an audit at the end."""

import argparse
import signal

from processor.cli.numbers import number

HELP = "Process 200,000 orders while workers are killed, and check that each took effect once, in order"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "--kafka", type=_brokers, metavar="HOST:PORT", help="brokers to use; librdkafka's mock cluster if not given"
    )
    parser.add_argument("--postgres", metavar="URL", help="database to use; the embedded Postgres if not given")
    parser.add_argument(
        "--orders", type=number, metavar="N", default=200_000, help="how many, at least 2000 (%(default)s)"
    )
    parser.add_argument(
        "--rate", type=number, metavar="N", help="orders a second; one that lasts a minute, at most 3000, if not given"
    )
    parser.add_argument("--seed", type=number, metavar="N", help="which orders and kinds; at random if not given")
    parser.epilog = (
        "On servers given it makes two topics, a consumer group and a schema of its own, and removes them at the end.\n"
        "Exit codes: 0 nothing missing, doubled or out of order, and 5 kills hit a worker at work; 1 otherwise."
    )


def _brokers(text: str) -> str:
    from processor.broker_addresses import check_brokers

    try:
        check_brokers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    # Until it has handlers of its own nothing has begun that would have to be ended in order.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from processor.demo.demo import Options, run

    given = {
        name: value
        for name in ("kafka", "postgres", "orders", "rate", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    return run(Options(**given))
