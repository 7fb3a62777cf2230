-- Retention (P30, decision 0010): how long what has ended is kept, and what makes deleting it cheap.

-- What processes say of the handlers they have: one process deletes for all of a schema, also for apps it does not know.
CREATE TABLE {schema}.retention_policy (
    handler text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED', 'DEAD_LETTER')),
    keep_ms bigint,                         -- since it ended; NULL: for ever
    written_at bigint NOT NULL,
    PRIMARY KEY (handler, kind)
);

-- Written in every deleting commit.
ALTER TABLE {schema}.horizon SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Decided dead letters, by when they were.
CREATE INDEX dead_letter_resolved_index ON {schema}.dead_letter (resolved_at) WHERE state <> 'OPEN';
-- Whose child a workflow is: it stands as long as its parent may ask for it.
CREATE INDEX operation_outputs_child_index ON {schema}.operation_outputs (child_workflow_id) WHERE child_workflow_id IS NOT NULL;

-- What hangs on a workflow goes with it, in one statement for each table and not in one for each table and row: with six
-- foreign keys a deleted row cost five times as much, nearly all of it look-ups in tables that are empty. (`waiting` and
-- `recovery` never had one.) The key of `notifications` stays: a message to nobody is refused by it.
CREATE FUNCTION {schema}.delete_what_hangs_on() RETURNS trigger LANGUAGE plpgsql AS $$
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
        DELETE FROM {schema}.waiting AS x WHERE x.workflow_uuid = ANY (ids);
        DELETE FROM {schema}.recovery AS r WHERE r.workflow_uuid = ANY (ids);
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER delete_what_hangs_on AFTER DELETE ON {schema}.workflow_status
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION {schema}.delete_what_hangs_on();

ALTER TABLE {schema}.operation_outputs DROP CONSTRAINT IF EXISTS operation_outputs_workflow_uuid_fkey;
ALTER TABLE {schema}.workflow_inputs DROP CONSTRAINT IF EXISTS workflow_inputs_workflow_uuid_fkey;
ALTER TABLE {schema}.workflow_events DROP CONSTRAINT IF EXISTS workflow_events_workflow_uuid_fkey;
ALTER TABLE {schema}.workflow_events_history DROP CONSTRAINT IF EXISTS workflow_events_history_workflow_uuid_fkey;
ALTER TABLE {schema}.workflow_queue DROP CONSTRAINT IF EXISTS workflow_queue_workflow_uuid_fkey;
ALTER TABLE {schema}.streams DROP CONSTRAINT IF EXISTS streams_workflow_uuid_fkey;
