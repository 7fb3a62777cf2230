-- Versions and instances: what code there was, who can run what, and which object a workflow is a method of (P29).

-- An executor can run workflows of several versions of its code, and of several objects.
ALTER TABLE {schema}.executor_workflow
    ADD COLUMN instance text NOT NULL DEFAULT '',   -- config_name; '': the workflow is no method
    ADD COLUMN is_own boolean NOT NULL DEFAULT true,    -- the version of its code, not one that it goes on with
    DROP CONSTRAINT executor_workflow_pkey,
    ADD PRIMARY KEY (executor_id, name, version, instance);

-- Every version of a workflow that an executor ever had, for whoever asks what a row's version was.
CREATE TABLE {schema}.workflow_version (
    name text NOT NULL,
    version text NOT NULL,
    first_at bigint NOT NULL,               -- epoch ms
    PRIMARY KEY (name, version)
);

-- As before (0011), and by instance: the rows of an object that this process lacks are not looked through.
DROP INDEX {schema}.workflow_status_commons_rest_index;
CREATE INDEX workflow_status_commons_rest_index
    ON {schema}.workflow_status (name, application_version, (COALESCE(config_name, '')), (COALESCE(kafka_wake_at, 0)))
    WHERE kafka_source IS NULL AND queue_name IS NULL AND status = 'PENDING' AND owner_xid IS NULL;

-- As before (0012), and its lost workers are counted anew: it was put back to work by somebody who knows of them.
CREATE OR REPLACE FUNCTION {schema}.execution_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IN ('ENQUEUED', 'PENDING') AND OLD.status NOT IN ('ENQUEUED', 'PENDING') THEN
        -- It goes on, whoever says so: what was said of its end, or of a pause before, is not so any more.
        UPDATE {schema}.execution AS e
           SET completed_at = NULL, error_node_id = NULL, failure_count = 0,
               paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL
         WHERE e.workflow_uuid = NEW.workflow_uuid;
    END IF;
    PERFORM {schema}.append_execution_event(NEW.workflow_uuid, 'status', json_build_object(
        'status', {schema}.execution_status(NEW.status, NEW.started_at_epoch_ms),
        'previous', {schema}.execution_status(OLD.status, OLD.started_at_epoch_ms))::text);
    RETURN NULL;
END;
$$;
