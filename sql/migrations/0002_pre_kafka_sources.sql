-- What the seed's tables need beyond: where a workflow came from, and in which order its key runs. Additive only.

ALTER TABLE {schema}.workflow_status
    ADD COLUMN kafka_source text,           -- 'group|topic-partition', incarnation 2 and later 'group|topic~2-partition'
    ADD COLUMN kafka_offset bigint,
    ADD COLUMN kafka_place bigint,          -- order within the key before the offset; NULL: the offset (P18)
    ADD COLUMN kafka_key bigint,            -- hash of the ordering key; NULL: unordered
    ADD COLUMN kafka_attempt integer,       -- attempts of the workflow's own retry policy so far (P28)
    ADD COLUMN kafka_wake_at bigint,        -- at rest until then, epoch ms
    ADD COLUMN kafka_alone integer;         -- times it was started alone in its process and killed it (P22)

-- The open rows of a partition, read at every claim and by the scan for operators' retries; empty when all is done.
CREATE INDEX workflow_status_kafka_open_index
    ON {schema}.workflow_status (kafka_source, kafka_offset)
    WHERE kafka_source IS NOT NULL AND status IN ('PENDING', 'ENQUEUED');

-- One progress row a partition and group, whatever the handler is called (a renamed handler finds the old row).
CREATE UNIQUE INDEX event_dispatch_kv_kafka_partition
    ON {schema}.event_dispatch_kv (service_name, key) WHERE service_name LIKE 'kafka:%';
-- Progress rows are updated in every flush: room for HOT on the same page, no index on what changes.
ALTER TABLE {schema}.event_dispatch_kv SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE {schema}.executor (
    executor_id text PRIMARY KEY,
    name text NOT NULL,                     -- stable across restarts where set explicitly (P3)
    named boolean NOT NULL DEFAULT false,   -- whether the name was set explicitly
    hostname text NOT NULL,
    pid integer NOT NULL,
    application_version text,
    counter bigint NOT NULL DEFAULT 0,      -- heartbeat; what others watch (P2)
    started_at bigint NOT NULL,
    renewed_at bigint NOT NULL,             -- for people
    lease_until bigint NOT NULL,            -- before then even one marked dead may still be at work (P9)
    died_at bigint
) WITH (fillfactor = 50);
CREATE INDEX executor_alive_index ON {schema}.executor (executor_id) WHERE died_at IS NULL;

CREATE TABLE {schema}.claim_request (
    service_name text NOT NULL,
    key text NOT NULL,
    executor_id text NOT NULL,
    generation integer NOT NULL,
    requested_at bigint NOT NULL,
    PRIMARY KEY (service_name, key, executor_id)
);

CREATE TABLE {schema}.topic_owner (
    topic text PRIMARY KEY,                 -- whose IDs have no prefix: the group that registered the topic first
    service_name text NOT NULL,
    registered_at bigint NOT NULL
);

CREATE TABLE {schema}.hold (
    hold_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_name text NOT NULL,
    key text NOT NULL,                      -- 'topic-partition', as in event_dispatch_kv
    ordering_key bigint,                    -- NULL: the whole partition
    kind text NOT NULL CHECK (kind IN ('block', 'halt', 'pause')),
    reason text NOT NULL,
    workflow_uuid text,                     -- whose failure caused it
    created_at bigint NOT NULL
);
CREATE UNIQUE INDEX hold_one_each ON {schema}.hold (service_name, key, COALESCE(ordering_key, 0), (ordering_key IS NULL), kind);

CREATE TABLE {schema}.horizon (
    kafka_source text PRIMARY KEY,
    horizon bigint NOT NULL                 -- lowest offset whose rows still stand (P30)
);

CREATE TABLE {schema}.gap (
    gap_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kafka_source text NOT NULL,
    from_offset bigint NOT NULL,
    to_offset bigint NOT NULL,              -- exclusive
    reason text NOT NULL,
    decided_by text NOT NULL,               -- 'policy' or the operator
    created_at bigint NOT NULL
);

CREATE TABLE {schema}.dead_letter (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_uuid text NOT NULL,
    handler text NOT NULL,
    service_name text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    record_key bytea,
    record_value bytea,
    record_headers jsonb,                   -- [[name, base64], ...]: those on the allow-list
    record_timestamp bigint,
    reason text NOT NULL,                   -- 'undecodable', 'failed', 'killed its process', ...
    error text NOT NULL,                    -- JSON, as in workflow_status.error
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'RETRIED', 'DISCARDED')),
    note text,                              -- the operator's reason
    created_at bigint NOT NULL,
    resolved_at bigint
);
CREATE INDEX dead_letter_open_index ON {schema}.dead_letter (service_name, topic, created_at) WHERE state = 'OPEN';
CREATE INDEX dead_letter_workflow_index ON {schema}.dead_letter (workflow_uuid);

CREATE TABLE {schema}.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
