-- The system tables of DBOS 2.7–2.10 exactly as in the seed: names, columns, types, keys, indexes, triggers.
-- Two spellings differ: gen_random_uuid() needs no contrib module where uuid_generate_v4() does, and
-- streams."offset" is quoted because OFFSET is a keyword.

CREATE TABLE {schema}.dbos_migrations (
    version bigint PRIMARY KEY
);
INSERT INTO {schema}.dbos_migrations (version) VALUES (7);

CREATE TABLE {schema}.workflow_status (
    workflow_uuid text PRIMARY KEY,
    status text,
    name text,
    class_name varchar(255),
    config_name varchar(255),
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    application_version text,
    application_id text,
    created_at bigint NOT NULL DEFAULT (EXTRACT(EPOCH FROM now()) * 1000)::bigint,
    updated_at bigint NOT NULL DEFAULT (EXTRACT(EPOCH FROM now()) * 1000)::bigint,
    recovery_attempts bigint DEFAULT 0,
    queue_name text,
    workflow_timeout_ms bigint,
    workflow_deadline_epoch_ms bigint,
    inputs text,
    started_at_epoch_ms bigint,
    deduplication_id text,
    priority integer NOT NULL DEFAULT 0,
    queue_partition_key text,
    forked_from text,
    owner_xid varchar(40)
);

-- Narrower than the seed's where the planner loses nothing (design section 8): a Kafka record has no queue, no
-- deduplication ID and no fork, and once finished nobody looks for it by status or executor.
-- The deduplication constraint is a plain unique index as in the seed: rows of NULLs are cheap to leave out.
CREATE UNIQUE INDEX uq_workflow_status_queue_name_dedup_id
    ON {schema}.workflow_status (queue_name, deduplication_id) WHERE deduplication_id IS NOT NULL;
CREATE INDEX workflow_status_created_at_index
    ON {schema}.workflow_status (created_at);
CREATE INDEX workflow_status_executor_id_index
    ON {schema}.workflow_status (executor_id) WHERE status IN ('PENDING', 'ENQUEUED');
CREATE INDEX workflow_status_status_index
    ON {schema}.workflow_status (status) WHERE status <> 'SUCCESS';
CREATE INDEX idx_workflow_status_queue_status_started
    ON {schema}.workflow_status (queue_name, status, started_at_epoch_ms) WHERE queue_name IS NOT NULL;
CREATE INDEX idx_workflow_status_forked_from
    ON {schema}.workflow_status (forked_from) WHERE forked_from IS NOT NULL;

CREATE TABLE {schema}.workflow_inputs (
    workflow_uuid text PRIMARY KEY
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    inputs text NOT NULL
);

CREATE TABLE {schema}.operation_outputs (
    workflow_uuid text NOT NULL
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    function_id integer NOT NULL,
    output text,
    error text,
    function_name text NOT NULL DEFAULT '',
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    PRIMARY KEY (workflow_uuid, function_id)
);

CREATE TABLE {schema}.notifications (
    message_uuid text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    destination_uuid text NOT NULL
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    topic text,
    message text NOT NULL,
    created_at_epoch_ms bigint NOT NULL DEFAULT (EXTRACT(EPOCH FROM now()) * 1000)::bigint
);
CREATE INDEX idx_workflow_topic ON {schema}.notifications (destination_uuid, topic);

CREATE FUNCTION {schema}.notifications_function() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dbos_notifications_channel', NEW.destination_uuid || '::' || NEW.topic);
    RETURN NEW;
END;
$$;
CREATE TRIGGER dbos_notifications_trigger AFTER INSERT ON {schema}.notifications
    FOR EACH ROW EXECUTE FUNCTION {schema}.notifications_function();

CREATE TABLE {schema}.workflow_events (
    workflow_uuid text NOT NULL
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    key text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (workflow_uuid, key)
);

CREATE FUNCTION {schema}.workflow_events_function() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dbos_workflow_events_channel', NEW.workflow_uuid || '::' || NEW.key);
    RETURN NEW;
END;
$$;
CREATE TRIGGER dbos_workflow_events_trigger AFTER INSERT ON {schema}.workflow_events
    FOR EACH ROW EXECUTE FUNCTION {schema}.workflow_events_function();

CREATE TABLE {schema}.scheduler_state (
    workflow_fn_name text PRIMARY KEY,
    last_run_time bigint NOT NULL
);

CREATE TABLE {schema}.workflow_queue (
    workflow_uuid text PRIMARY KEY
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    queue_name text NOT NULL,
    created_at_epoch_ms bigint NOT NULL DEFAULT (EXTRACT(EPOCH FROM now()) * 1000)::bigint,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    executor_id text,
    deduplication_id text,
    priority integer NOT NULL DEFAULT 0,
    UNIQUE (queue_name, deduplication_id)
);

CREATE TABLE {schema}.event_dispatch_kv (
    service_name text NOT NULL,
    workflow_fn_name text NOT NULL,
    key text NOT NULL,
    value text,
    update_seq decimal(38, 0),
    update_time decimal(38, 15),
    PRIMARY KEY (service_name, workflow_fn_name, key)
);

CREATE TABLE {schema}.streams (
    workflow_uuid text NOT NULL
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    key text NOT NULL,
    value text NOT NULL,
    "offset" integer NOT NULL,
    function_id integer NOT NULL DEFAULT 0,
    PRIMARY KEY (workflow_uuid, key, "offset")
);

CREATE TABLE {schema}.workflow_events_history (
    workflow_uuid text NOT NULL
        REFERENCES {schema}.workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    function_id integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (workflow_uuid, function_id, key)
);
