-- Debounce (decision 0013): a call changes what waits under its key only as long as that has never begun.

-- One call: the workflow of this key, if it has never started, gets these inputs and waits anew; else a new one begins to wait.
-- One that has been resumed is ENQUEUED again with a history, which is of the inputs it has. Returns which waits. `call` is the
-- new one's ID. Two calls of a key wait for each other, and for nobody else.
CREATE OR REPLACE FUNCTION {schema}.debounce(
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
     WHERE w.workflow_uuid = standing.workflow_uuid AND w.status = 'ENQUEUED' AND w.name = workflow_name
       AND w.started_at_epoch_ms IS NULL
       AND NOT EXISTS (SELECT FROM {schema}.operation_outputs AS o WHERE o.workflow_uuid = w.workflow_uuid);
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
