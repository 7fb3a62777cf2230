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
