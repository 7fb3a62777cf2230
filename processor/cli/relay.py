"""`processor relay`: a process that only moves the outbox to Kafka, or stands by for it. It knows no app.

For programs that publish without consuming, for `outbox.relay: false`, and for a relay that no handler slows down.
"""

import argparse

from processor.cli.run import run_until_stopped

HELP = "Publish the outbox to Kafka, without an app"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.epilog = (
        "One of all processes of a schema relays, these and those of `processor run`; the others stand by.\n"
        "SIGTERM and SIGINT stop it behind the transaction under way.\n"
        "Exit codes: 0 stopped as asked; 1 it could not go on; 2 it could not start."
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until stopped."""
    from processor.app import App
    from processor.loading import load_settings
    from processor.logs import setup_logging
    from processor.runtime import Runtime

    settings = load_settings(arguments.config)
    setup_logging(settings.logs.format, settings.logs.level)
    return run_until_stopped(Runtime(App("relay"), settings, kafka=False, relay=True, web=False), settings)
