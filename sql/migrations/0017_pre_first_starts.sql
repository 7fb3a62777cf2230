-- Executions keep the time of their first start (decision 0016): the workflow's row has that of the last one, and none while
-- a claim of a worker outside of engines has not begun.

ALTER TABLE {schema}.execution ADD COLUMN first_started_at bigint;

-- As before (0013), and the first start is noted as soon as the status changes, whoever changes it.
CREATE OR REPLACE FUNCTION {schema}.execution_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IN ('ENQUEUED', 'PENDING') AND OLD.status NOT IN ('ENQUEUED', 'PENDING') THEN
        -- It goes on, whoever says so: what was said of its end, or of a pause before, is not so any more.
        UPDATE {schema}.execution AS e
           SET completed_at = NULL, error_node_id = NULL, failure_count = 0,
               paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL
         WHERE e.workflow_uuid = NEW.workflow_uuid;
    END IF;
    UPDATE {schema}.execution AS e
       SET first_started_at = COALESCE(OLD.started_at_epoch_ms, NEW.started_at_epoch_ms)
     WHERE e.workflow_uuid = NEW.workflow_uuid AND e.first_started_at IS NULL
       AND COALESCE(OLD.started_at_epoch_ms, NEW.started_at_epoch_ms) IS NOT NULL;
    PERFORM {schema}.append_execution_event(NEW.workflow_uuid, 'status', json_build_object(
        'status', {schema}.execution_status(NEW.status, NEW.started_at_epoch_ms),
        'previous', {schema}.execution_status(OLD.status, OLD.started_at_epoch_ms))::text);
    RETURN NULL;
END;
$$;
