-- What other programs change in our rows, above all DBOS's own clients (P18, P29, decision 0019): they know neither our columns
-- nor whom we tell. Our own statements do all of this themselves, in sets; those that the triggers would take for somebody
-- else's say so (`processor.quiet`).

-- As before (0011), and: what another program enqueues or forks has no place in the order of our calls. A fork has its
-- original's record or parent, and inputs that are kept apart, of which those clients know nothing.
CREATE OR REPLACE FUNCTION {schema}.workflow_queue_function() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF TG_OP = 'INSERT' AND NEW.kafka_place IS NULL AND NEW.status = 'ENQUEUED' THEN
        IF NEW.forked_from IS NOT NULL THEN
            -- A fork of our own says whose it is: an execution's is one of its own.
            UPDATE {schema}.workflow_status AS w
               SET request = o.request
              FROM {schema}.workflow_status AS o
             WHERE w.workflow_uuid = NEW.workflow_uuid AND o.workflow_uuid = NEW.forked_from
               AND COALESCE(NEW.request, 'null') = 'null';
            INSERT INTO {schema}.workflow_inputs (workflow_uuid, inputs)
            SELECT NEW.workflow_uuid, i.inputs
              FROM {schema}.workflow_inputs AS i
             WHERE i.workflow_uuid = NEW.forked_from AND NEW.inputs LIKE '%"stored_in": "workflow_inputs"%'
                ON CONFLICT DO NOTHING;
        END IF;
        PERFORM pg_notify('processor_rows', 'queue ' || NEW.queue_name);
    END IF;
    RETURN NULL;
END;
$$;

-- A client's cancel and resume.
--
-- Cancelled: its place of a queue is free and its deduplication ID too; it waits for nothing, and whoever rests until its
-- result wakes. Its run, and its key, hear of it by the hint.
-- Resumed: it is due now, whatever it rested for, and its deaths are forgotten. A record's goes behind what is open of its
-- key, or keeps its place where it blocked it (decision 0003), in its partition, of no queue; its dead letter counts as retried.
CREATE FUNCTION {schema}.changed_by_others() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    blocked boolean;
BEGIN
    DELETE FROM {schema}.waiting AS x WHERE x.workflow_uuid = NEW.workflow_uuid;
    IF NEW.status = 'CANCELLED' THEN
        UPDATE {schema}.workflow_status AS w
           SET kafka_wake_at = NULL
         WHERE w.workflow_uuid = NEW.workflow_uuid AND w.kafka_wake_at IS NOT NULL;
        UPDATE {schema}.workflow_queue AS q
           SET completed_at_epoch_ms = {schema}.now_ms(), deduplication_id = NULL
         WHERE q.workflow_uuid = NEW.workflow_uuid AND q.completed_at_epoch_ms IS NULL;
        UPDATE {schema}.workflow_status AS w
           SET kafka_wake_at = 0
          FROM {schema}.waiting AS x
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
        DELETE FROM {schema}.hold AS h WHERE h.workflow_uuid = NEW.workflow_uuid AND h.kind = 'block';
        blocked := FOUND;
        UPDATE {schema}.dead_letter AS d
           SET state = 'RETRIED', resolved_at = {schema}.now_ms()
         WHERE d.workflow_uuid = NEW.workflow_uuid AND d.state = 'OPEN';
    END IF;
    UPDATE {schema}.workflow_status AS w
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
                                      FROM {schema}.event_dispatch_kv AS k
                                     WHERE k.service_name = 'kafka:' || substring(w.kafka_source FROM '^(.*)\|[^|]*$')
                                       AND k.key = regexp_replace(substring(w.kafka_source FROM '[^|]*$'),
                                                                  '~\d+(-\d+)$', '\1')) END
     WHERE w.workflow_uuid = NEW.workflow_uuid;
    PERFORM pg_notify('processor_rows', CASE WHEN NEW.kafka_source IS NULL THEN 'queue ' || NEW.queue_name ELSE 'rows' END);
    RETURN NULL;
END;
$$;
CREATE TRIGGER changed_by_others AFTER UPDATE OF status ON {schema}.workflow_status
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status
                       AND (NEW.status = 'CANCELLED'
                            OR (NEW.status = 'ENQUEUED' AND NEW.queue_name = '_dbos_internal_queue'))
                       AND current_setting('processor.quiet', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION {schema}.changed_by_others();
