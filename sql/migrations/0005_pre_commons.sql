-- Workflows without a source, rest in the middle of an attempt, and who waits for whom (P7, P29, P31).

ALTER TABLE {schema}.workflow_status
    ADD COLUMN kafka_asleep boolean,        -- its last rest was within an attempt: nothing is forgotten when it wakes (P28)
    ADD COLUMN kafka_interrupt boolean;     -- cancelled, and its running async steps are to be cancelled as well

-- At rest without a source, by who can run it and when it is due; kafka_wake_at NULL is due at once.
CREATE INDEX workflow_status_commons_rest_index
    ON {schema}.workflow_status (name, application_version, (COALESCE(kafka_wake_at, 0)))
    WHERE kafka_source IS NULL AND status = 'PENDING' AND owner_xid IS NULL;
-- Running without a source, by who runs it: the rows of a dead executor.
CREATE INDEX workflow_status_commons_running_index
    ON {schema}.workflow_status (executor_id)
    WHERE kafka_source IS NULL AND status = 'PENDING' AND owner_xid IS NOT NULL;
-- A partition's rows that run nowhere, by when they are due: what the look finds, without a glance at the sleepers.
CREATE INDEX workflow_status_kafka_rest_index
    ON {schema}.workflow_status (kafka_source, (COALESCE(kafka_wake_at, 0)))
    WHERE kafka_source IS NOT NULL AND status IN ('PENDING', 'ENQUEUED') AND (owner_xid IS NULL OR status = 'ENQUEUED');
CREATE INDEX workflow_status_deadline_index
    ON {schema}.workflow_status (workflow_deadline_epoch_ms)
    WHERE workflow_deadline_epoch_ms IS NOT NULL AND status IN ('PENDING', 'ENQUEUED');

-- What a workflow at rest waits for beside its wake-up time. Whoever brings it sets kafka_wake_at to 0 in the same
-- commit. No foreign keys, here and below: each would cost every deletion of a workflow a look-up.
CREATE TABLE {schema}.waiting (
    workflow_uuid text NOT NULL,            -- who waits
    kind text NOT NULL CHECK (kind IN ('result', 'message', 'event', 'stream')),
    target text NOT NULL,                   -- whose result, event or stream; of a message, who waits for it
    name text NOT NULL DEFAULT '',          -- key of the event or stream, topic of the message
    polled boolean NOT NULL DEFAULT false,  -- a record's workflow is awaited, whose end wakes nobody: the look does
    PRIMARY KEY (workflow_uuid, kind, target, name)
);
CREATE INDEX waiting_target_index ON {schema}.waiting (target, kind, name);
CREATE INDEX waiting_polled_index ON {schema}.waiting (target) WHERE polled;

-- What executors can run: a workflow whose code is nowhere is listed with that reason.
CREATE TABLE {schema}.executor_workflow (
    executor_id text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    PRIMARY KEY (executor_id, name)
);

-- Every time a workflow's executor was given up for dead and another took it (P29).
CREATE TABLE {schema}.recovery (
    recovery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_uuid text NOT NULL,
    worker_id text NOT NULL,                -- who took it
    reason text NOT NULL,
    previous_status text,
    previous_worker_id text,
    recovered_at bigint NOT NULL
);
CREATE INDEX recovery_workflow_index ON {schema}.recovery (workflow_uuid, recovery_id);

-- The fence of a flush of workflows without a source (P4, P7): locks their rows, and those of `others` that the flush
-- will touch or wait for, in the order of their IDs. `function_ids` are the newest checkpoints known to be durable, NULL
-- where there is none: a restored database has a prefix of the commits, so where the last checkpoint is, all are.
-- Rows that are not ours raise nothing: every statement that follows joins them under these locks, and returns those
-- that are. KP003 as fence_row.
CREATE FUNCTION {schema}.fence_group(
    ids text[], owners text[], function_ids integer[], others text[], seen_timeline text, seen_lsn pg_lsn
) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
    missing text[];
BEGIN
    PERFORM 1 FROM {schema}.workflow_status AS w
      WHERE w.workflow_uuid = ANY (ids || others)
      ORDER BY w.workflow_uuid
        FOR NO KEY UPDATE;
    SELECT array_agg(t.id) INTO missing
      FROM unnest(ids, owners, function_ids) AS t (id, owner, function_id)
      JOIN {schema}.workflow_status AS w
        ON w.workflow_uuid = t.id AND w.owner_xid = t.owner AND w.status = 'PENDING'
     WHERE t.function_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM {schema}.operation_outputs AS o
                        WHERE o.workflow_uuid = t.id AND o.function_id = t.function_id);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'row fence: % workflows lack their newest checkpoint', cardinality(missing)
            USING ERRCODE = 'KP003', DETAIL = array_to_json(missing)::text;
    END IF;
    RETURN {schema}.fence_database(seen_timeline, seen_lsn);
END;
$$;
