"""`processor demo`: the whole thing on one machine, under fire, with the books checked at the end.

app        what the two workers run            ledger    what was produced, written before it is
servers    Postgres, Kafka, and their end      workers   the worker processes, killed and started anew
processes  which do not outlive the run        kills     which worker, and when
books      tables of the run                   audit     the ledger against the tables
demo       the run                             show      terminal
"""
