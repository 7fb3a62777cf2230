-- The outbox (I9, decision 0008): events written in the commit of their cause, which the relay moves to Kafka.

-- Inserted, read once, deleted. One index: rows are taken, read and deleted in its order, and new ones go to its last page.
CREATE TABLE {schema}.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- within a key, in the order of commits
    created_at bigint NOT NULL,
    topic text NOT NULL,
    record_key bytea,                       -- NULL: in no order with others
    record_value bytea,                     -- NULL: a tombstone
    record_headers text                     -- JSON: [[name, base64 or null], ...]
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- One row. A batch is published in one Kafka transaction together with its token; rows are in no batch, then in one, then gone.
CREATE TABLE {schema}.outbox_relay (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    outbox_name text NOT NULL DEFAULT gen_random_uuid()::text,  -- in Kafka: of the group and the transactional ID
    epoch bigint NOT NULL DEFAULT 0,        -- + 1 with each claim
    executor_id text,                       -- who relays; NULL: nobody
    beat bigint NOT NULL DEFAULT 0,         -- + 1 while it gets on
    number bigint NOT NULL DEFAULT 0,       -- of the batch published last, as far as this table knows
    token text,                             -- its token; NULL: nothing was ever published
    next_token text,                        -- of batch number + 1; NULL: none is formed
    batch int8multirange NOT NULL DEFAULT '{}',  -- exactly its rows
    floor bigint NOT NULL DEFAULT 0,        -- no row at or below it that is not in the batch
    adopts boolean NOT NULL DEFAULT false,  -- an operator said: whatever Kafka's position is, go on from there
    halted text,                            -- why it does not go on by itself
    halted_at bigint
) WITH (fillfactor = 20);
INSERT INTO {schema}.outbox_relay DEFAULT VALUES;

-- The lanes of keys, locked until the commit, in one order: two transactions of one key draw their numbers in the order in
-- which they commit. Nothing may be waited for behind it. First of all the transaction gets its xid: once every transaction
-- that is older than a visible row has ended, no number below that row's can still come (`floor`).
CREATE FUNCTION {schema}.lock_outbox_keys(keys bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    PERFORM pg_advisory_xact_lock($name${schema}.outbox$name$::regclass::oid::integer, l.lane)
       FROM (SELECT DISTINCT get_byte(sha256(t.key), 0) % 128 AS lane
               FROM unnest(keys) AS t (key)
              WHERE t.key IS NOT NULL
              ORDER BY lane) AS l;
END;
$$;

-- A relay's writes count under its claim, and if the table is where the relay left it. Raises KP004.
CREATE FUNCTION {schema}.fence_relay(my_epoch bigint, my_token text, my_next_token text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM {schema}.outbox_relay AS r
      WHERE r.epoch = my_epoch
        AND r.token IS NOT DISTINCT FROM my_token
        AND r.next_token IS NOT DISTINCT FROM my_next_token
        AND r.halted IS NULL
        FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relay fence: epoch % with tokens % and % is not what stands', my_epoch, my_token, my_next_token
            USING ERRCODE = 'KP004';
    END IF;
END;
$$;
