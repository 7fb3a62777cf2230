-- The sum of sql/migrations, for reading: written by `make schema`, compared with a migrated database by a test.
-- Not what creates a schema: that is `processor migrate`, which also records what it applied.

SET check_function_bodies = off;  -- functions stand in order of their names, not of their use

CREATE SCHEMA dbos;

CREATE TABLE dbos.audit (
    audit_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    created_at bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'::jsonb,
    CONSTRAINT audit_pkey PRIMARY KEY (audit_id)
);

CREATE TABLE dbos.claim_request (
    service_name text NOT NULL,
    key text NOT NULL,
    executor_id text NOT NULL,
    generation integer NOT NULL,
    requested_at bigint NOT NULL,
    CONSTRAINT claim_request_pkey PRIMARY KEY (service_name, key, executor_id)
);

CREATE TABLE dbos.dbos_migrations (
    version bigint NOT NULL,
    CONSTRAINT dbos_migrations_pkey PRIMARY KEY (version)
);

CREATE TABLE dbos.dead_letter (
    dead_letter_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    workflow_uuid text NOT NULL,
    handler text NOT NULL,
    service_name text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    record_key bytea,
    record_value bytea,
    record_headers jsonb,
    record_timestamp bigint,
    reason text NOT NULL,
    error text NOT NULL,
    state text NOT NULL DEFAULT 'OPEN'::text,
    note text,
    created_at bigint NOT NULL,
    resolved_at bigint,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (dead_letter_id),
    CONSTRAINT dead_letter_state_check CHECK ((state = ANY (ARRAY['OPEN'::text, 'RETRIED'::text, 'DISCARDED'::text])))
);

CREATE INDEX dead_letter_open_index ON dbos.dead_letter USING btree (service_name, topic, created_at) WHERE (state = 'OPEN'::text);

CREATE INDEX dead_letter_resolved_index ON dbos.dead_letter USING btree (resolved_at) WHERE (state <> 'OPEN'::text);

CREATE INDEX dead_letter_workflow_index ON dbos.dead_letter USING btree (workflow_uuid);

CREATE TABLE dbos.debounce (
    name text NOT NULL,
    key text NOT NULL,
    workflow_uuid text NOT NULL,
    latest_at bigint,
    last_call text NOT NULL,
    called_at bigint NOT NULL,
    CONSTRAINT debounce_pkey PRIMARY KEY (name, key)
);

CREATE INDEX debounce_called_index ON dbos.debounce USING btree (called_at);

CREATE TABLE dbos.event_dispatch_kv (
    service_name text NOT NULL,
    workflow_fn_name text NOT NULL,
    key text NOT NULL,
    value text,
    update_seq numeric(38,0),
    update_time numeric(38,15),
    CONSTRAINT event_dispatch_kv_pkey PRIMARY KEY (service_name, workflow_fn_name, key)
) WITH (fillfactor=50, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=1000);

CREATE UNIQUE INDEX event_dispatch_kv_kafka_partition ON dbos.event_dispatch_kv USING btree (service_name, key) WHERE (service_name ~~ 'kafka:%'::text);

CREATE TABLE dbos.execution (
    workflow_uuid text NOT NULL,
    flow_id text NOT NULL,
    owner_id text NOT NULL,
    root_execution_id text,
    parent_execution_id text,
    execution_depth integer NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    completed_at bigint,
    error_node_id text,
    options text,
    integration text,
    external_events text,
    failure_count integer NOT NULL DEFAULT 0,
    last_failure_at bigint,
    last_failure_reason text,
    paused_function_id integer,
    paused_node_id text,
    paused_at bigint,
    next_event integer NOT NULL DEFAULT 0,
    first_started_at bigint,
    CONSTRAINT execution_pkey PRIMARY KEY (workflow_uuid),
    CONSTRAINT execution_execution_depth_check CHECK ((execution_depth >= 0)),
    CONSTRAINT execution_failure_count_check CHECK ((failure_count >= 0))
) WITH (fillfactor=50);

CREATE INDEX execution_parent_index ON dbos.execution USING btree (parent_execution_id) WHERE (parent_execution_id IS NOT NULL);

CREATE INDEX execution_root_index ON dbos.execution USING btree (root_execution_id) WHERE (parent_execution_id IS NOT NULL);

CREATE INDEX execution_roots_index ON dbos.execution USING btree (flow_id, created_at DESC, workflow_uuid DESC) WHERE (parent_execution_id IS NULL);

CREATE TABLE dbos.execution_event (
    event_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    workflow_uuid text NOT NULL,
    event_index integer NOT NULL,
    type text NOT NULL,
    data text NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT execution_event_pkey PRIMARY KEY (event_id),
    CONSTRAINT execution_event_workflow_uuid_event_index_key UNIQUE (workflow_uuid, event_index)
);

CREATE TABLE dbos.executor (
    executor_id text NOT NULL,
    name text NOT NULL,
    named boolean NOT NULL DEFAULT false,
    hostname text NOT NULL,
    pid integer NOT NULL,
    application_version text,
    counter bigint NOT NULL DEFAULT 0,
    started_at bigint NOT NULL,
    renewed_at bigint NOT NULL,
    lease_until bigint NOT NULL,
    died_at bigint,
    survived_alone text[],
    claim_of text,
    CONSTRAINT executor_pkey PRIMARY KEY (executor_id)
) WITH (fillfactor=50);

CREATE INDEX executor_alive_index ON dbos.executor USING btree (executor_id) WHERE (died_at IS NULL);

CREATE INDEX executor_claim_index ON dbos.executor USING btree (lease_until) WHERE ((claim_of IS NOT NULL) AND (died_at IS NULL));

CREATE TABLE dbos.executor_schedule (
    executor_id text NOT NULL,
    name text NOT NULL,
    expression text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    version text NOT NULL,
    CONSTRAINT executor_schedule_pkey PRIMARY KEY (name, executor_id)
);

CREATE TABLE dbos.executor_workflow (
    executor_id text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    instance text NOT NULL DEFAULT ''::text,
    is_own boolean NOT NULL DEFAULT true,
    CONSTRAINT executor_workflow_pkey PRIMARY KEY (executor_id, name, version, instance)
);

CREATE TABLE dbos.gap (
    gap_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    kafka_source text NOT NULL,
    from_offset bigint NOT NULL,
    to_offset bigint NOT NULL,
    reason text NOT NULL,
    decided_by text NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT gap_pkey PRIMARY KEY (gap_id)
);

CREATE TABLE dbos.hold (
    hold_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    service_name text NOT NULL,
    key text NOT NULL,
    ordering_key bigint,
    kind text NOT NULL,
    reason text NOT NULL,
    workflow_uuid text,
    created_at bigint NOT NULL,
    CONSTRAINT hold_pkey PRIMARY KEY (hold_id),
    CONSTRAINT hold_kind_check CHECK ((kind = ANY (ARRAY['block'::text, 'halt'::text, 'pause'::text])))
);

CREATE UNIQUE INDEX hold_one_each ON dbos.hold USING btree (service_name, key, COALESCE(ordering_key, (0)::bigint), ((ordering_key IS NULL)), kind);

CREATE TABLE dbos.horizon (
    kafka_source text NOT NULL,
    horizon bigint NOT NULL,
    CONSTRAINT horizon_pkey PRIMARY KEY (kafka_source)
) WITH (fillfactor=50, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=1000);

CREATE TABLE dbos.message_key (
    destination_uuid text NOT NULL,
    idempotency_key text NOT NULL,
    CONSTRAINT message_key_pkey PRIMARY KEY (destination_uuid, idempotency_key)
);

CREATE TABLE dbos.notifications (
    message_uuid text NOT NULL DEFAULT (gen_random_uuid())::text,
    destination_uuid text NOT NULL,
    topic text,
    message text NOT NULL,
    created_at_epoch_ms bigint NOT NULL DEFAULT ((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint,
    kafka_place bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY,
    CONSTRAINT notifications_pkey PRIMARY KEY (message_uuid)
);

CREATE INDEX idx_workflow_topic ON dbos.notifications USING btree (destination_uuid, topic, kafka_place);

CREATE TABLE dbos.operation_outputs (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    output text,
    error text,
    function_name text NOT NULL DEFAULT ''::text,
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    kafka_called integer,
    CONSTRAINT operation_outputs_pkey PRIMARY KEY (workflow_uuid, function_id)
);

CREATE INDEX operation_outputs_child_index ON dbos.operation_outputs USING btree (child_workflow_id) WHERE (child_workflow_id IS NOT NULL);

CREATE TABLE dbos.outbox (
    outbox_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    created_at bigint NOT NULL,
    topic text NOT NULL,
    record_key bytea,
    record_value bytea,
    record_headers text,
    CONSTRAINT outbox_pkey PRIMARY KEY (outbox_id)
) WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=5000);

CREATE TABLE dbos.outbox_relay (
    is_only boolean NOT NULL DEFAULT true,
    outbox_name text NOT NULL DEFAULT (gen_random_uuid())::text,
    epoch bigint NOT NULL DEFAULT 0,
    executor_id text,
    beat bigint NOT NULL DEFAULT 0,
    number bigint NOT NULL DEFAULT 0,
    token text,
    next_token text,
    batch int8multirange NOT NULL DEFAULT '{}'::int8multirange,
    floor bigint NOT NULL DEFAULT 0,
    adopts boolean NOT NULL DEFAULT false,
    halted text,
    halted_at bigint,
    CONSTRAINT outbox_relay_pkey PRIMARY KEY (is_only),
    CONSTRAINT outbox_relay_is_only_check CHECK (is_only)
) WITH (fillfactor=20);

CREATE TABLE dbos.processor_migration (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at bigint NOT NULL,
    CONSTRAINT processor_migration_pkey PRIMARY KEY (version)
);

CREATE TABLE dbos.queue (
    queue_name text NOT NULL,
    concurrency integer,
    worker_concurrency integer,
    limit_starts integer,
    limit_period_ms bigint,
    has_priority boolean NOT NULL DEFAULT false,
    is_partitioned boolean NOT NULL DEFAULT false,
    registered_at bigint NOT NULL,
    paused_at bigint,
    CONSTRAINT queue_pkey PRIMARY KEY (queue_name),
    CONSTRAINT queue_check CHECK (((limit_starts IS NULL) = (limit_period_ms IS NULL))),
    CONSTRAINT queue_concurrency_check CHECK ((concurrency > 0)),
    CONSTRAINT queue_limit_period_ms_check CHECK ((limit_period_ms > 0)),
    CONSTRAINT queue_limit_starts_check CHECK ((limit_starts > 0)),
    CONSTRAINT queue_worker_concurrency_check CHECK ((worker_concurrency > 0))
);

CREATE TABLE dbos.queue_listener (
    executor_id text NOT NULL,
    queue_name text NOT NULL,
    CONSTRAINT queue_listener_pkey PRIMARY KEY (executor_id, queue_name)
);

CREATE TABLE dbos.queue_start (
    queue_name text NOT NULL,
    partition_key text NOT NULL,
    started_at bigint NOT NULL,
    owner_xid text NOT NULL,
    starts integer NOT NULL,
    CONSTRAINT queue_start_pkey PRIMARY KEY (queue_name, partition_key, started_at, owner_xid)
);

CREATE INDEX queue_start_time_index ON dbos.queue_start USING btree (queue_name, started_at);

CREATE TABLE dbos.recovery (
    recovery_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    workflow_uuid text NOT NULL,
    worker_id text NOT NULL,
    reason text NOT NULL,
    previous_status text,
    previous_worker_id text,
    recovered_at bigint NOT NULL,
    CONSTRAINT recovery_pkey PRIMARY KEY (recovery_id)
);

CREATE INDEX recovery_workflow_index ON dbos.recovery USING btree (workflow_uuid, recovery_id);

CREATE TABLE dbos.retention_policy (
    handler text NOT NULL,
    kind text NOT NULL,
    keep_ms bigint,
    written_at bigint NOT NULL,
    CONSTRAINT retention_policy_pkey PRIMARY KEY (handler, kind),
    CONSTRAINT retention_policy_kind_check CHECK ((kind = ANY (ARRAY['SUCCESS'::text, 'ERROR'::text, 'CANCELLED'::text, 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'::text, 'DEAD_LETTER'::text])))
);

CREATE TABLE dbos.schedule (
    name text NOT NULL,
    expression text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    version text NOT NULL,
    registered_at bigint NOT NULL,
    changed_at bigint,
    last_tick_at bigint,
    last_started_at bigint,
    paused_at bigint,
    paused_by text,
    pause_note text,
    CONSTRAINT schedule_pkey PRIMARY KEY (name),
    CONSTRAINT schedule_catch_up_check CHECK ((catch_up = ANY (ARRAY['all'::text, 'latest'::text, 'none'::text])))
);

CREATE TABLE dbos.scheduler_state (
    workflow_fn_name text NOT NULL,
    last_run_time bigint NOT NULL,
    CONSTRAINT scheduler_state_pkey PRIMARY KEY (workflow_fn_name)
);

CREATE TABLE dbos.streams (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    "offset" integer NOT NULL,
    function_id integer NOT NULL DEFAULT 0,
    CONSTRAINT streams_pkey PRIMARY KEY (workflow_uuid, key, "offset")
);

CREATE TABLE dbos.topic_owner (
    topic text NOT NULL,
    service_name text NOT NULL,
    registered_at bigint NOT NULL,
    CONSTRAINT topic_owner_pkey PRIMARY KEY (topic)
);

CREATE TABLE dbos.waiting (
    workflow_uuid text NOT NULL,
    kind text NOT NULL,
    target text NOT NULL,
    name text NOT NULL DEFAULT ''::text,
    polled boolean NOT NULL DEFAULT false,
    place integer NOT NULL DEFAULT 0,
    CONSTRAINT waiting_pkey PRIMARY KEY (workflow_uuid, kind, target, name),
    CONSTRAINT waiting_kind_check CHECK ((kind = ANY (ARRAY['result'::text, 'message'::text, 'event'::text, 'stream'::text])))
);

CREATE INDEX waiting_polled_index ON dbos.waiting USING btree (target) WHERE polled;

CREATE INDEX waiting_target_index ON dbos.waiting USING btree (target, kind, name);

CREATE TABLE dbos.workflow_events (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    CONSTRAINT workflow_events_pkey PRIMARY KEY (workflow_uuid, key)
);

CREATE TABLE dbos.workflow_events_history (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    CONSTRAINT workflow_events_history_pkey PRIMARY KEY (workflow_uuid, function_id, key)
);

CREATE TABLE dbos.workflow_inputs (
    workflow_uuid text NOT NULL,
    inputs text NOT NULL,
    CONSTRAINT workflow_inputs_pkey PRIMARY KEY (workflow_uuid)
);

CREATE TABLE dbos.workflow_queue (
    workflow_uuid text NOT NULL,
    queue_name text NOT NULL,
    created_at_epoch_ms bigint NOT NULL DEFAULT ((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    executor_id text,
    deduplication_id text,
    priority integer NOT NULL DEFAULT 0,
    CONSTRAINT workflow_queue_pkey PRIMARY KEY (workflow_uuid),
    CONSTRAINT workflow_queue_queue_name_deduplication_id_key UNIQUE (queue_name, deduplication_id)
) WITH (fillfactor=50);

CREATE TABLE dbos.workflow_status (
    workflow_uuid text NOT NULL,
    status text,
    name text,
    class_name character varying(255),
    config_name character varying(255),
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    application_version text,
    application_id text,
    created_at bigint NOT NULL DEFAULT ((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint,
    updated_at bigint NOT NULL DEFAULT ((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint,
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
    owner_xid character varying(40),
    kafka_source text,
    kafka_offset bigint,
    kafka_place bigint,
    kafka_key bigint,
    kafka_attempt integer,
    kafka_wake_at bigint,
    kafka_alone integer,
    kafka_asleep boolean,
    kafka_interrupt boolean,
    kafka_execution boolean,
    CONSTRAINT workflow_status_pkey PRIMARY KEY (workflow_uuid)
);

CREATE INDEX idx_workflow_status_forked_from ON dbos.workflow_status USING btree (forked_from) WHERE (forked_from IS NOT NULL);

CREATE INDEX idx_workflow_status_queue_status_started ON dbos.workflow_status USING btree (queue_name, status, started_at_epoch_ms) WHERE (queue_name IS NOT NULL);

CREATE UNIQUE INDEX uq_workflow_status_queue_name_dedup_id ON dbos.workflow_status USING btree (queue_name, deduplication_id) WHERE (deduplication_id IS NOT NULL);

CREATE INDEX workflow_status_commons_rest_index ON dbos.workflow_status USING btree (name, application_version, COALESCE(config_name, ''::character varying), COALESCE(kafka_wake_at, (0)::bigint)) WHERE ((kafka_source IS NULL) AND (queue_name IS NULL) AND (status = 'PENDING'::text) AND (owner_xid IS NULL));

CREATE INDEX workflow_status_commons_running_index ON dbos.workflow_status USING btree (executor_id) WHERE ((kafka_source IS NULL) AND (status = 'PENDING'::text) AND (owner_xid IS NOT NULL));

CREATE INDEX workflow_status_created_at_index ON dbos.workflow_status USING btree (created_at);

CREATE INDEX workflow_status_deadline_index ON dbos.workflow_status USING btree (workflow_deadline_epoch_ms) WHERE ((workflow_deadline_epoch_ms IS NOT NULL) AND (status = ANY (ARRAY['PENDING'::text, 'ENQUEUED'::text])));

CREATE INDEX workflow_status_executions_index ON dbos.workflow_status USING btree (created_at) WHERE (kafka_execution AND (status = ANY (ARRAY['PENDING'::text, 'ENQUEUED'::text])));

CREATE INDEX workflow_status_executor_id_index ON dbos.workflow_status USING btree (executor_id) WHERE (status = ANY (ARRAY['PENDING'::text, 'ENQUEUED'::text]));

CREATE INDEX workflow_status_kafka_cancelled_index ON dbos.workflow_status USING btree (kafka_source) WHERE ((kafka_source IS NOT NULL) AND (status = 'CANCELLED'::text) AND (owner_xid IS NOT NULL));

CREATE INDEX workflow_status_kafka_open_index ON dbos.workflow_status USING btree (kafka_source, kafka_offset) WHERE ((kafka_source IS NOT NULL) AND (status = ANY (ARRAY['PENDING'::text, 'ENQUEUED'::text])));

CREATE INDEX workflow_status_kafka_rest_index ON dbos.workflow_status USING btree (kafka_source, COALESCE(kafka_wake_at, (0)::bigint)) WHERE ((kafka_source IS NOT NULL) AND (status = ANY (ARRAY['PENDING'::text, 'ENQUEUED'::text])) AND ((owner_xid IS NULL) OR (status = 'ENQUEUED'::text)));

CREATE INDEX workflow_status_queue_delayed_index ON dbos.workflow_status USING btree (queue_name, kafka_wake_at) WHERE ((kafka_source IS NULL) AND (queue_name IS NOT NULL) AND (status = 'ENQUEUED'::text) AND (kafka_wake_at IS NOT NULL));

CREATE INDEX workflow_status_queue_places_index ON dbos.workflow_status USING btree (queue_name, COALESCE(queue_partition_key, ''::text)) WHERE ((kafka_source IS NULL) AND (queue_name IS NOT NULL) AND (status = 'PENDING'::text));

CREATE INDEX workflow_status_queue_ready_index ON dbos.workflow_status USING btree (queue_name, COALESCE(queue_partition_key, ''::text), priority, created_at, kafka_place) WHERE ((kafka_source IS NULL) AND (queue_name IS NOT NULL) AND (status = 'ENQUEUED'::text) AND (kafka_wake_at IS NULL));

CREATE INDEX workflow_status_queue_rest_index ON dbos.workflow_status USING btree (queue_name, COALESCE(kafka_wake_at, (0)::bigint)) WHERE ((kafka_source IS NULL) AND (queue_name IS NOT NULL) AND (status = 'PENDING'::text) AND (owner_xid IS NULL));

CREATE INDEX workflow_status_status_index ON dbos.workflow_status USING btree (status) WHERE (status <> 'SUCCESS'::text);

CREATE TABLE dbos.workflow_version (
    name text NOT NULL,
    version text NOT NULL,
    first_at bigint NOT NULL,
    CONSTRAINT workflow_version_pkey PRIMARY KEY (name, version)
);

ALTER TABLE dbos.notifications ADD CONSTRAINT notifications_destination_uuid_fkey FOREIGN KEY (destination_uuid) REFERENCES dbos.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE;

CREATE OR REPLACE FUNCTION dbos.append_execution_event(id text, event_type text, event_data text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    place integer;
BEGIN
    -- This gives the transaction its xid, before it draws a number: whoever has seen the event, and then gets an xid, has
    -- a higher one than every transaction that drew a smaller number.
    UPDATE "dbos".execution AS e SET next_event = e.next_event + 1
     WHERE e.workflow_uuid = id
    RETURNING e.next_event - 1 INTO place;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO "dbos".execution_event (workflow_uuid, event_index, type, data, created_at)
    VALUES (id, place, event_type, event_data, "dbos".now_ms());
    PERFORM pg_notify('processor_executions', id);
    RETURN place;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.changed_by_others()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
DECLARE
    blocked boolean;
BEGIN
    DELETE FROM "dbos".waiting AS x WHERE x.workflow_uuid = NEW.workflow_uuid;
    IF NEW.status = 'CANCELLED' THEN
        UPDATE "dbos".workflow_status AS w
           SET kafka_wake_at = NULL
         WHERE w.workflow_uuid = NEW.workflow_uuid AND w.kafka_wake_at IS NOT NULL;
        UPDATE "dbos".workflow_queue AS q
           SET completed_at_epoch_ms = "dbos".now_ms(), deduplication_id = NULL
         WHERE q.workflow_uuid = NEW.workflow_uuid AND q.completed_at_epoch_ms IS NULL;
        UPDATE "dbos".workflow_status AS w
           SET kafka_wake_at = 0
          FROM "dbos".waiting AS x
         WHERE x.target = NEW.workflow_uuid AND x.kind = 'result'
           AND w.workflow_uuid = x.workflow_uuid AND w.status = 'PENDING' AND w.owner_xid IS NULL
           AND w.kafka_wake_at IS DISTINCT FROM 0;
        PERFORM pg_notify('processor_rows', 'rows');
        IF octet_length(NEW.workflow_uuid) < 1000 AND NEW.workflow_uuid !~ '\s' THEN
            PERFORM pg_notify('processor_rows', 'cancelled ' || NEW.workflow_uuid);
        END IF;
        RETURN NULL;
    END IF;
    IF NEW.kafka_source IS NOT NULL AND OLD.status <> 'PENDING' THEN
        -- In this order: a reader that misses the hold sees the row.
        DELETE FROM "dbos".hold AS h WHERE h.workflow_uuid = NEW.workflow_uuid AND h.kind = 'block';
        blocked := FOUND;
        UPDATE "dbos".dead_letter AS d
           SET state = 'RETRIED', resolved_at = "dbos".now_ms()
         WHERE d.workflow_uuid = NEW.workflow_uuid AND d.state = 'OPEN';
    END IF;
    UPDATE "dbos".workflow_status AS w
       SET queue_name = CASE WHEN w.kafka_source IS NULL THEN w.queue_name END,
           output = NULL,
           error = NULL,
           kafka_wake_at = NULL,
           kafka_asleep = NULL,
           kafka_interrupt = NULL,
           kafka_attempt = NULL,
           kafka_alone = NULL,
           kafka_place = CASE WHEN blocked THEN w.kafka_place
                              WHEN blocked IS NULL THEN w.kafka_place
                              ELSE (SELECT (k.value::json ->> 'high')::bigint
                                      FROM "dbos".event_dispatch_kv AS k
                                     WHERE k.service_name = 'kafka:' || substring(w.kafka_source FROM '^(.*)\|[^|]*$')
                                       AND k.key = regexp_replace(substring(w.kafka_source FROM '[^|]*$'),
                                                                  '~\d+(-\d+)$', '\1')) END
     WHERE w.workflow_uuid = NEW.workflow_uuid;
    PERFORM pg_notify('processor_rows', CASE WHEN NEW.kafka_source IS NULL THEN 'queue ' || NEW.queue_name ELSE 'rows' END);
    RETURN NULL;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.debounce(workflow_name text, debounce_key text, call text, wait_ms bigint, max_wait_ms bigint, queue text, new_inputs text, new_request text, timeout_ms bigint, place bigint)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
DECLARE
    now bigint;
    standing "dbos".debounce;
BEGIN
    INSERT INTO "dbos".debounce AS d (name, key, workflow_uuid, last_call, called_at)
    VALUES (workflow_name, debounce_key, '', '', 0)
        ON CONFLICT (name, key) DO UPDATE SET called_at = d.called_at
    RETURNING d.* INTO standing;
    now := "dbos".now_ms();
    IF standing.last_call = call THEN
        RETURN standing.workflow_uuid;
    END IF;
    UPDATE "dbos".workflow_status AS w
       SET inputs = new_inputs,
           request = new_request,
           kafka_wake_at = CASE WHEN w.kafka_wake_at IS NOT NULL THEN LEAST(now + wait_ms, standing.latest_at) END,
           updated_at = now
     WHERE w.workflow_uuid = standing.workflow_uuid AND w.status = 'ENQUEUED' AND w.name = workflow_name
       AND w.started_at_epoch_ms IS NULL
       AND NOT EXISTS (SELECT FROM "dbos".operation_outputs AS o WHERE o.workflow_uuid = w.workflow_uuid);
    IF NOT FOUND THEN
        standing.workflow_uuid := call;
        standing.latest_at := now + max_wait_ms;
        INSERT INTO "dbos".workflow_status
               (workflow_uuid, status, name, inputs, request, queue_name, workflow_timeout_ms, kafka_place, created_at,
                updated_at, kafka_wake_at)
        VALUES (call, 'ENQUEUED', workflow_name, new_inputs, new_request, queue, timeout_ms, place, now, now,
                LEAST(now + wait_ms, standing.latest_at));
    END IF;
    UPDATE "dbos".debounce AS d
       SET workflow_uuid = standing.workflow_uuid, latest_at = standing.latest_at, last_call = call, called_at = now
     WHERE d.name = workflow_name AND d.key = debounce_key;
    RETURN standing.workflow_uuid;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.delete_what_hangs_on()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
DECLARE
    ids text[] := ARRAY(SELECT g.workflow_uuid FROM gone AS g);
BEGIN
    IF cardinality(ids) > 0 THEN
        DELETE FROM "dbos".operation_outputs AS o WHERE o.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".workflow_inputs AS i WHERE i.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".workflow_events AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".workflow_events_history AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".workflow_queue AS q WHERE q.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".streams AS s WHERE s.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".message_key AS k WHERE k.destination_uuid = ANY (ids);
        DELETE FROM "dbos".waiting AS x WHERE x.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".recovery AS r WHERE r.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".execution AS e WHERE e.workflow_uuid = ANY (ids);
        DELETE FROM "dbos".execution_event AS e WHERE e.workflow_uuid = ANY (ids);
    END IF;
    RETURN NULL;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.execution_changed()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    IF NEW.status IN ('ENQUEUED', 'PENDING') AND OLD.status NOT IN ('ENQUEUED', 'PENDING') THEN
        -- It goes on, whoever says so: what was said of its end, or of a pause before, is not so any more.
        UPDATE "dbos".execution AS e
           SET completed_at = NULL, error_node_id = NULL, failure_count = 0,
               paused_function_id = NULL, paused_node_id = NULL, paused_at = NULL
         WHERE e.workflow_uuid = NEW.workflow_uuid;
    END IF;
    UPDATE "dbos".execution AS e
       SET first_started_at = COALESCE(OLD.started_at_epoch_ms, NEW.started_at_epoch_ms)
     WHERE e.workflow_uuid = NEW.workflow_uuid AND e.first_started_at IS NULL
       AND COALESCE(OLD.started_at_epoch_ms, NEW.started_at_epoch_ms) IS NOT NULL;
    PERFORM "dbos".append_execution_event(NEW.workflow_uuid, 'status', json_build_object(
        'status', "dbos".execution_status(NEW.status, NEW.started_at_epoch_ms),
        'previous', "dbos".execution_status(OLD.status, OLD.started_at_epoch_ms))::text);
    RETURN NULL;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.execution_status(status text, started_at bigint)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE status
           WHEN 'ENQUEUED' THEN 'created'
           WHEN 'PENDING' THEN CASE WHEN started_at IS NULL THEN 'created' ELSE 'running' END
           WHEN 'SUCCESS' THEN 'completed'
           WHEN 'CANCELLED' THEN 'stopped'
           ELSE 'failed' END
$function$;

CREATE OR REPLACE FUNCTION dbos.executor_is_gone(id text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
    SELECT NOT EXISTS (
        SELECT FROM "dbos".executor AS e
         WHERE e.executor_id = id AND (e.died_at IS NULL OR e.lease_until > "dbos".now_ms())
    )
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_database(seen_timeline text, seen_lsn pg_lsn)
 RETURNS pg_lsn
 LANGUAGE plpgsql
AS $function$
DECLARE
    lsn pg_lsn := pg_current_wal_insert_lsn();
    timeline text := left(pg_walfile_name(lsn), 8);
BEGIN
    IF timeline <> seen_timeline OR lsn < seen_lsn THEN
        RAISE EXCEPTION 'database fence: timeline % at %, after timeline % at %', timeline, lsn, seen_timeline, seen_lsn
            USING ERRCODE = 'KP003';
    END IF;
    RETURN lsn;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_group(ids text[], owners text[], function_ids integer[], others text[], seen_timeline text, seen_lsn pg_lsn)
 RETURNS pg_lsn
 LANGUAGE plpgsql
AS $function$
DECLARE
    missing text[];
BEGIN
    PERFORM 1 FROM "dbos".workflow_status AS w
      WHERE w.workflow_uuid = ANY (ids || others)
      ORDER BY w.workflow_uuid
        FOR NO KEY UPDATE;
    SELECT array_agg(t.id) INTO missing
      FROM unnest(ids, owners, function_ids) AS t (id, owner, function_id)
      JOIN "dbos".workflow_status AS w
        ON w.workflow_uuid = t.id AND w.owner_xid = t.owner AND w.status = 'PENDING'
     WHERE t.function_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM "dbos".operation_outputs AS o
                        WHERE o.workflow_uuid = t.id AND o.function_id = t.function_id);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'row fence: % workflows lack their newest checkpoint', cardinality(missing)
            USING ERRCODE = 'KP003', DETAIL = array_to_json(missing)::text;
    END IF;
    RETURN "dbos".fence_database(seen_timeline, seen_lsn);
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_partitions(services text[], keys text[], epochs bigint[], held text[], written text[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
DECLARE
    lost integer[] := '{}';
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        UPDATE "dbos".event_dispatch_kv AS k
           SET value = written[i],
               update_time = EXTRACT(EPOCH FROM clock_timestamp())
         WHERE k.service_name = services[i]
           AND k.service_name LIKE 'kafka:%'
           AND k.key = keys[i]
           AND k.update_seq = epochs[i]
           AND k.value = held[i];
        IF NOT FOUND THEN
            lost := lost || i;
        END IF;
    END LOOP;
    IF cardinality(lost) > 0 THEN
        RAISE EXCEPTION 'partition fence: % of % partitions are no longer ours', cardinality(lost), cardinality(keys)
            USING ERRCODE = 'KP001', DETAIL = array_to_json(lost)::text;
    END IF;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_relay(my_epoch bigint, my_token text, my_next_token text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM 1 FROM "dbos".outbox_relay AS r
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
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_row(id text, owner text, checkpoints integer[], seen_timeline text, seen_lsn pg_lsn)
 RETURNS pg_lsn
 LANGUAGE plpgsql
AS $function$
DECLARE
    found_checkpoints bigint;
BEGIN
    PERFORM 1 FROM "dbos".workflow_status AS w
      WHERE w.workflow_uuid = id AND w.owner_xid = owner AND w.status = 'PENDING'
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'row fence: workflow % is not PENDING under owner %', id, owner USING ERRCODE = 'KP002', DETAIL = id;
    END IF;
    SELECT count(*) INTO found_checkpoints FROM "dbos".operation_outputs AS o
     WHERE o.workflow_uuid = id AND o.function_id = ANY (checkpoints);
    IF found_checkpoints <> cardinality(checkpoints) THEN
        RAISE EXCEPTION 'row fence: workflow % has % of % earlier checkpoints', id, found_checkpoints, cardinality(checkpoints)
            USING ERRCODE = 'KP003', DETAIL = id;
    END IF;
    RETURN "dbos".fence_database(seen_timeline, seen_lsn);
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.fence_rows(ids text[], owners text[], checkpoint_ids text[], function_ids integer[], seen_timeline text, seen_lsn pg_lsn)
 RETURNS pg_lsn
 LANGUAGE plpgsql
AS $function$
DECLARE
    held text[];
    lost text[];
    found_checkpoints bigint;
BEGIN
    -- Locked in the order of their IDs, so that two groups never wait for each other in a circle.
    SELECT array_agg(l.id) INTO held FROM (
        SELECT w.workflow_uuid AS id
          FROM unnest(ids, owners) AS t (id, owner)
          JOIN "dbos".workflow_status AS w
            ON w.workflow_uuid = t.id AND w.owner_xid = t.owner AND w.status = 'PENDING'
         ORDER BY w.workflow_uuid
           FOR NO KEY UPDATE OF w
    ) AS l;
    IF cardinality(ids) > COALESCE(cardinality(held), 0) THEN
        SELECT array_agg(t.id) INTO lost FROM unnest(ids) AS t (id) WHERE t.id <> ALL (COALESCE(held, '{}'));
        RAISE EXCEPTION 'row fence: % of % workflows are not PENDING under their owners', cardinality(lost), cardinality(ids)
            USING ERRCODE = 'KP002', DETAIL = array_to_json(lost)::text;
    END IF;
    SELECT count(*) INTO found_checkpoints
      FROM unnest(checkpoint_ids, function_ids) AS t (id, function_id)
      JOIN "dbos".operation_outputs AS o ON o.workflow_uuid = t.id AND o.function_id = t.function_id;
    IF found_checkpoints <> cardinality(checkpoint_ids) THEN
        RAISE EXCEPTION 'row fence: % of % earlier checkpoints are there', found_checkpoints, cardinality(checkpoint_ids)
            USING ERRCODE = 'KP003';
    END IF;
    RETURN "dbos".fence_database(seen_timeline, seen_lsn);
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.lock_outbox_keys(keys bytea[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    SET CONSTRAINTS "dbos".processor_wake_receiver IMMEDIATE;
    PERFORM pg_current_xact_id();
    PERFORM pg_advisory_xact_lock($name$"dbos".outbox$name$::regclass::oid::integer, l.lane)
       FROM (SELECT DISTINCT get_byte(sha256(t.key), 0) % 128 AS lane
               FROM unnest(keys) AS t (key)
              WHERE t.key IS NOT NULL
              ORDER BY lane) AS l;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.notifications_function()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM pg_notify('dbos_notifications_channel', NEW.destination_uuid || '::' || NEW.topic);
    RETURN NEW;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.now_ms()
 RETURNS bigint
 LANGUAGE sql
AS $function$
    SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
$function$;

CREATE OR REPLACE FUNCTION dbos.wake_receiver()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM 1 FROM "dbos".workflow_status AS w WHERE w.workflow_uuid = NEW.destination_uuid FOR NO KEY UPDATE;
    UPDATE "dbos".workflow_status AS w
       SET kafka_wake_at = 0
      FROM "dbos".waiting AS x
     WHERE x.target = NEW.destination_uuid AND x.kind = 'message' AND x.name = NEW.topic
       AND w.workflow_uuid = x.workflow_uuid AND w.status = 'PENDING' AND w.owner_xid IS NULL;
    IF FOUND THEN
        PERFORM pg_notify('processor_rows', '');
    END IF;
    RETURN NULL;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.workflow_events_function()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM pg_notify('dbos_workflow_events_channel', NEW.workflow_uuid || '::' || NEW.key);
    RETURN NEW;
END;
$function$;

CREATE OR REPLACE FUNCTION dbos.workflow_queue_function()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE "dbos".workflow_queue AS q
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
    INSERT INTO "dbos".workflow_queue
           (workflow_uuid, queue_name, created_at_epoch_ms, started_at_epoch_ms, executor_id, deduplication_id, priority)
    VALUES (NEW.workflow_uuid, NEW.queue_name, NEW.created_at, NEW.started_at_epoch_ms, NEW.executor_id,
            NEW.deduplication_id, NEW.priority)
        ON CONFLICT DO NOTHING;
    IF TG_OP = 'INSERT' AND NEW.kafka_place IS NULL AND NEW.status = 'ENQUEUED' THEN
        IF NEW.forked_from IS NOT NULL THEN
            -- A fork of our own says whose it is: an execution's is one of its own.
            UPDATE "dbos".workflow_status AS w
               SET request = o.request
              FROM "dbos".workflow_status AS o
             WHERE w.workflow_uuid = NEW.workflow_uuid AND o.workflow_uuid = NEW.forked_from
               AND COALESCE(NEW.request, 'null') = 'null';
            INSERT INTO "dbos".workflow_inputs (workflow_uuid, inputs)
            SELECT NEW.workflow_uuid, i.inputs
              FROM "dbos".workflow_inputs AS i
             WHERE i.workflow_uuid = NEW.forked_from AND NEW.inputs LIKE '%"stored_in": "workflow_inputs"%'
                ON CONFLICT DO NOTHING;
        END IF;
        PERFORM pg_notify('processor_rows', 'queue ' || NEW.queue_name);
    END IF;
    RETURN NULL;
END;
$function$;

CREATE TRIGGER dbos_notifications_trigger AFTER INSERT ON dbos.notifications FOR EACH ROW WHEN ((current_setting('processor.quiet'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION dbos.notifications_function();

CREATE CONSTRAINT TRIGGER processor_wake_receiver AFTER INSERT ON dbos.notifications DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((current_setting('processor.quiet'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION dbos.wake_receiver();

CREATE TRIGGER dbos_workflow_events_trigger AFTER INSERT ON dbos.workflow_events FOR EACH ROW WHEN ((current_setting('processor.quiet'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION dbos.workflow_events_function();

CREATE TRIGGER changed_by_others AFTER UPDATE OF status ON dbos.workflow_status FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) AND ((new.status = 'CANCELLED'::text) OR ((new.status = 'ENQUEUED'::text) AND (new.queue_name = '_dbos_internal_queue'::text))) AND (current_setting('processor.quiet'::text, true) IS DISTINCT FROM 'on'::text))) EXECUTE FUNCTION dbos.changed_by_others();

CREATE TRIGGER delete_what_hangs_on AFTER DELETE ON dbos.workflow_status REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION dbos.delete_what_hangs_on();

CREATE TRIGGER execution_changed AFTER UPDATE OF status, started_at_epoch_ms ON dbos.workflow_status FOR EACH ROW WHEN ((new.kafka_execution AND (dbos.execution_status(new.status, new.started_at_epoch_ms) <> dbos.execution_status(old.status, old.started_at_epoch_ms)))) EXECUTE FUNCTION dbos.execution_changed();

CREATE TRIGGER workflow_queue_changed AFTER UPDATE OF status, executor_id ON dbos.workflow_status FOR EACH ROW WHEN (((new.queue_name IS NOT NULL) AND (new.kafka_source IS NULL) AND ((new.status IS DISTINCT FROM old.status) OR (new.executor_id IS DISTINCT FROM old.executor_id)) AND (current_setting('onceflow.ledger'::text, true) IS DISTINCT FROM 'kept'::text))) EXECUTE FUNCTION dbos.workflow_queue_function();

CREATE TRIGGER workflow_queue_enqueued AFTER INSERT ON dbos.workflow_status FOR EACH ROW WHEN (((new.queue_name IS NOT NULL) AND (new.kafka_source IS NULL))) EXECUTE FUNCTION dbos.workflow_queue_function();

INSERT INTO dbos.dbos_migrations (version) VALUES (7);
