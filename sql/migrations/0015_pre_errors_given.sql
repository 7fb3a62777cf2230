-- What a resume forgets (decision 0030): the errors behind which the code called nothing.

-- Of an error, and of what was recorded as a part of its call: the newest place that the code had called when it was given the
-- error. Places are given in call order, so that a later one was called behind it. NULL: other programs' and older rows, and
-- of results.
ALTER TABLE {schema}.operation_outputs ADD COLUMN kafka_called integer;
