-- Queues and debounce (P29, decision 0013). A row with a queue's name is ENQUEUED until it starts, then has its place of the
-- queue while it is PENDING, wherever it runs or rests.

-- The limits of a queue, for all who take from it: the process that started last says what they are.
CREATE TABLE {schema}.queue (
    queue_name text PRIMARY KEY,
    concurrency integer CHECK (concurrency > 0),            -- at a time, for each partition key; NULL: no limit
    worker_concurrency integer CHECK (worker_concurrency > 0), -- likewise, in one process
    limit_starts integer CHECK (limit_starts > 0),          -- starts for each partition key in any …
    limit_period_ms bigint CHECK (limit_period_ms > 0),     -- … period of this length
    has_priority boolean NOT NULL DEFAULT false,
    is_partitioned boolean NOT NULL DEFAULT false,
    registered_at bigint NOT NULL,
    paused_at bigint,                                       -- by an operator: nothing of it is started
    CHECK ((limit_starts IS NULL) = (limit_period_ms IS NULL))
);
-- Of the official client: what it resumes or forks. Everybody takes from it.
INSERT INTO {schema}.queue (queue_name, registered_at) VALUES ('_dbos_internal_queue', {schema}.now_ms());

-- Who takes from which queue: without anybody, its workflows are listed with that reason.
CREATE TABLE {schema}.queue_listener (
    executor_id text NOT NULL,
    queue_name text NOT NULL,
    PRIMARY KEY (executor_id, queue_name)
);

-- Starts in the periods that still count: a row for each turn and partition key.
CREATE TABLE {schema}.queue_start (
    queue_name text NOT NULL,
    partition_key text NOT NULL,
    started_at bigint NOT NULL,
    owner_xid text NOT NULL,                -- the token under which they were taken
    starts integer NOT NULL,
    PRIMARY KEY (queue_name, partition_key, started_at, owner_xid)
);
CREATE INDEX queue_start_time_index ON {schema}.queue_start (queue_name, started_at);

-- Which workflow the next call under a key changes, unless that has started.
CREATE TABLE {schema}.debounce (
    name text NOT NULL,                     -- of the workflow
    key text NOT NULL,
    workflow_uuid text NOT NULL,
    latest_at bigint,                       -- it starts no later, however many calls come; NULL: no such time
    last_call text NOT NULL,                -- a call whose reply was lost is made again, and does nothing
    called_at bigint NOT NULL,
    PRIMARY KEY (name, key)
);
CREATE INDEX debounce_called_index ON {schema}.debounce (called_at);

-- One call: the workflow of this key, if it has not started, gets these inputs and waits anew; else a new one begins to wait.
-- Returns which. `call` is the new one's ID. Two calls of a key wait for each other, and for nobody else.
CREATE FUNCTION {schema}.debounce(
    workflow_name text, debounce_key text, call text, wait_ms bigint, max_wait_ms bigint, queue text, new_inputs text,
    new_request text, timeout_ms bigint, place bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now bigint;
    standing {schema}.debounce;
BEGIN
    INSERT INTO {schema}.debounce AS d (name, key, workflow_uuid, last_call, called_at)
    VALUES (workflow_name, debounce_key, '', '', 0)
        ON CONFLICT (name, key) DO UPDATE SET called_at = d.called_at
    RETURNING d.* INTO standing;
    now := {schema}.now_ms();
    IF standing.last_call = call THEN
        RETURN standing.workflow_uuid;
    END IF;
    UPDATE {schema}.workflow_status AS w
       SET inputs = new_inputs,
           request = new_request,
           kafka_wake_at = CASE WHEN w.kafka_wake_at IS NOT NULL THEN LEAST(now + wait_ms, standing.latest_at) END,
           updated_at = now
     WHERE w.workflow_uuid = standing.workflow_uuid AND w.status = 'ENQUEUED' AND w.name = workflow_name;
    IF NOT FOUND THEN
        standing.workflow_uuid := call;
        standing.latest_at := now + max_wait_ms;
        INSERT INTO {schema}.workflow_status
               (workflow_uuid, status, name, inputs, request, queue_name, workflow_timeout_ms, kafka_place, created_at,
                updated_at, kafka_wake_at)
        VALUES (call, 'ENQUEUED', workflow_name, new_inputs, new_request, queue, timeout_ms, place, now, now,
                LEAST(now + wait_ms, standing.latest_at));
    END IF;
    UPDATE {schema}.debounce AS d
       SET workflow_uuid = standing.workflow_uuid, latest_at = standing.latest_at, last_call = call, called_at = now
     WHERE d.name = workflow_name AND d.key = debounce_key;
    RETURN standing.workflow_uuid;
END;
$$;

-- Ready, in the order in which they are taken.
CREATE INDEX workflow_status_queue_ready_index
    ON {schema}.workflow_status (queue_name, (COALESCE(queue_partition_key, '')), priority, created_at, kafka_place)
    WHERE kafka_source IS NULL AND queue_name IS NOT NULL AND status = 'ENQUEUED' AND kafka_wake_at IS NULL;
-- Delayed, by when they are due.
CREATE INDEX workflow_status_queue_delayed_index
    ON {schema}.workflow_status (queue_name, kafka_wake_at)
    WHERE kafka_source IS NULL AND queue_name IS NOT NULL AND status = 'ENQUEUED' AND kafka_wake_at IS NOT NULL;
-- Places that are taken.
CREATE INDEX workflow_status_queue_places_index
    ON {schema}.workflow_status (queue_name, (COALESCE(queue_partition_key, '')))
    WHERE kafka_source IS NULL AND queue_name IS NOT NULL AND status = 'PENDING';
-- At rest with their place, by when they are due.
CREATE INDEX workflow_status_queue_rest_index
    ON {schema}.workflow_status (queue_name, (COALESCE(kafka_wake_at, 0)))
    WHERE kafka_source IS NULL AND queue_name IS NOT NULL AND status = 'PENDING' AND owner_xid IS NULL;
-- As before (0005), without those of queues: only who listens to a queue wakes its sleepers.
DROP INDEX {schema}.workflow_status_commons_rest_index;
CREATE INDEX workflow_status_commons_rest_index
    ON {schema}.workflow_status (name, application_version, (COALESCE(kafka_wake_at, 0)))
    WHERE kafka_source IS NULL AND queue_name IS NULL AND status = 'PENDING' AND owner_xid IS NULL;

-- The ledger of every member of a queue, from its enqueueing to its deletion, whoever changes its row. Row by row it costs
-- half of what a queue can do, so our own statements write it in sets, and say so (`onceflow.ledger`).
ALTER TABLE {schema}.workflow_queue SET (fillfactor = 50);
CREATE FUNCTION {schema}.workflow_queue_function() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE {schema}.workflow_queue AS q
           SET queue_name = NEW.queue_name,
               started_at_epoch_ms = NEW.started_at_epoch_ms,
               completed_at_epoch_ms = CASE WHEN NEW.status IN ('ENQUEUED', 'PENDING') THEN NULL ELSE NEW.updated_at END,
               executor_id = NEW.executor_id,
               deduplication_id = NEW.deduplication_id,
               priority = NEW.priority
         WHERE q.workflow_uuid = NEW.workflow_uuid;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO {schema}.workflow_queue
           (workflow_uuid, queue_name, created_at_epoch_ms, started_at_epoch_ms, executor_id, deduplication_id, priority)
    VALUES (NEW.workflow_uuid, NEW.queue_name, NEW.created_at, NEW.started_at_epoch_ms, NEW.executor_id,
            NEW.deduplication_id, NEW.priority)
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END;
$$;
CREATE TRIGGER workflow_queue_enqueued AFTER INSERT ON {schema}.workflow_status
    FOR EACH ROW WHEN (NEW.queue_name IS NOT NULL AND NEW.kafka_source IS NULL)
    EXECUTE FUNCTION {schema}.workflow_queue_function();
CREATE TRIGGER workflow_queue_changed AFTER UPDATE OF status, executor_id ON {schema}.workflow_status
    FOR EACH ROW WHEN (NEW.queue_name IS NOT NULL AND NEW.kafka_source IS NULL
                       AND (NEW.status IS DISTINCT FROM OLD.status OR NEW.executor_id IS DISTINCT FROM OLD.executor_id)
                       AND current_setting('onceflow.ledger', true) IS DISTINCT FROM 'kept')
    EXECUTE FUNCTION {schema}.workflow_queue_function();
