-- Executions of flows (decision 0016): workflows with a row of their own for what ChainGraph adds, and their events.

-- A worker outside of the engine is an executor of one execution: its claim. NULL: a process of the engine.
ALTER TABLE {schema}.executor ADD COLUMN claim_of text;
CREATE INDEX executor_claim_index ON {schema}.executor (lease_until) WHERE claim_of IS NOT NULL AND died_at IS NULL;

ALTER TABLE {schema}.workflow_status ADD COLUMN kafka_execution boolean;  -- it has a row in `execution`

CREATE TABLE {schema}.execution (
    workflow_uuid text PRIMARY KEY,
    flow_id text NOT NULL,
    owner_id text NOT NULL,
    root_execution_id text,                 -- of a root NULL, or its own ID
    parent_execution_id text,
    execution_depth integer NOT NULL CHECK (execution_depth >= 0),
    created_at bigint NOT NULL,             -- as whoever created it says
    updated_at bigint NOT NULL,             -- of what stands here
    completed_at bigint,                    -- if somebody said so; else the time of its end
    error_node_id text,                     -- likewise; else the step whose error was the last
    options text,                           -- JSON
    integration text,                       -- JSON, of users
    external_events text,                   -- JSON, of users
    failure_count integer NOT NULL DEFAULT 0 CHECK (failure_count >= 0),
    last_failure_at bigint,
    last_failure_reason text,               -- JSON, of users
    paused_function_id integer,             -- at a breakpoint: before this place of its history …
    paused_node_id text,                    -- … which is this node's
    paused_at bigint,
    next_event integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX execution_roots_index
    ON {schema}.execution (flow_id, created_at DESC, workflow_uuid DESC) WHERE parent_execution_id IS NULL;
CREATE INDEX execution_parent_index
    ON {schema}.execution (parent_execution_id) WHERE parent_execution_id IS NOT NULL;
CREATE INDEX execution_root_index
    ON {schema}.execution (root_execution_id) WHERE parent_execution_id IS NOT NULL;
-- What may need recovery: what has not ended.
CREATE INDEX workflow_status_executions_index
    ON {schema}.workflow_status (created_at) WHERE kafka_execution AND status IN ('PENDING', 'ENQUEUED');

CREATE TABLE {schema}.execution_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,   -- order over all executions (engine/store/execution_events.py)
    workflow_uuid text NOT NULL,
    event_index integer NOT NULL,           -- contiguous from 0, in the order of commits
    type text NOT NULL,
    data text NOT NULL,                     -- JSON; of users where they published it
    created_at bigint NOT NULL,
    UNIQUE (workflow_uuid, event_index)
);

CREATE FUNCTION {schema}.execution_status(status text, started_at bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE status
           WHEN 'ENQUEUED' THEN 'created'
           WHEN 'PENDING' THEN CASE WHEN started_at IS NULL THEN 'created' ELSE 'running' END
           WHEN 'SUCCESS' THEN 'completed'
           WHEN 'CANCELLED' THEN 'stopped'
           ELSE 'failed' END
$$;

-- The next event of an execution; NULL where there is no such execution. The workflow's row is locked by the caller, so
-- that whoever writes events of two executions locks in the order of workflows.
CREATE FUNCTION {schema}.append_execution_event(id text, event_type text, event_data text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    place integer;
BEGIN
    -- This gives the transaction its xid, before it draws a number: whoever has seen the event, and then gets an xid, has
    -- a higher one than every transaction that drew a smaller number.
    UPDATE {schema}.execution AS e SET next_event = e.next_event + 1
     WHERE e.workflow_uuid = id
    RETURNING e.next_event - 1 INTO place;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO {schema}.execution_event (workflow_uuid, event_index, type, data, created_at)
    VALUES (id, place, event_type, event_data, {schema}.now_ms());
    PERFORM pg_notify('processor_executions', id);
    RETURN place;
END;
$$;

CREATE FUNCTION {schema}.execution_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IN ('ENQUEUED', 'PENDING') AND OLD.status NOT IN ('ENQUEUED', 'PENDING') THEN
        -- It goes on, whoever says so: what was said of its end, or of a pause before, is not so any more.
        UPDATE {schema}.execution AS e
           SET completed_at = NULL, error_node_id = NULL,
               paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL
         WHERE e.workflow_uuid = NEW.workflow_uuid;
    END IF;
    PERFORM {schema}.append_execution_event(NEW.workflow_uuid, 'status', json_build_object(
        'status', {schema}.execution_status(NEW.status, NEW.started_at_epoch_ms),
        'previous', {schema}.execution_status(OLD.status, OLD.started_at_epoch_ms))::text);
    RETURN NULL;
END;
$$;
CREATE TRIGGER execution_changed AFTER UPDATE OF status, started_at_epoch_ms ON {schema}.workflow_status
    FOR EACH ROW WHEN (NEW.kafka_execution
                       AND {schema}.execution_status(NEW.status, NEW.started_at_epoch_ms)
                           <> {schema}.execution_status(OLD.status, OLD.started_at_epoch_ms))
    EXECUTE FUNCTION {schema}.execution_changed();

-- As before (0009), with executions and their events.
CREATE OR REPLACE FUNCTION {schema}.delete_what_hangs_on() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids text[] := ARRAY(SELECT g.workflow_uuid FROM gone AS g);
BEGIN
    IF cardinality(ids) > 0 THEN
        DELETE FROM {schema}.operation_outputs AS o WHERE o.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.workflow_inputs AS i WHERE i.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.workflow_events AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.workflow_events_history AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.workflow_queue AS q WHERE q.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.streams AS s WHERE s.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.message_key AS k WHERE k.destination_uuid = ANY (ids);
        DELETE FROM {schema}.waiting AS x WHERE x.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.recovery AS r WHERE r.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.execution AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.execution_event AS e WHERE e.workflow_uuid = ANY (ids);
    END IF;
    RETURN NULL;
END;
$$;
