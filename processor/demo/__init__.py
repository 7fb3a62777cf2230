"""`processor demo`: the whole thing on one machine, under fire, with the books checked at the end.

app        what the two workers run            ledger    what was produced, written before it is
servers    Postgres, Kafka, and their end      workers   the worker processes, killed and started anew
audit      the ledger against the tables       show      terminal
demo       the run
"""
