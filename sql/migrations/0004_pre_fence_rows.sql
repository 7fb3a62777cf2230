-- Row fences lock FOR NO KEY UPDATE: nobody can change a status or an owner beside it, but checkpoints of the same
-- workflow, whose foreign key locks its row FOR KEY SHARE, do not wait: two transactions of one workflow that had both
-- inserted theirs waited for each other in a circle.
CREATE OR REPLACE FUNCTION {schema}.fence_row(
    id text, owner text, checkpoints integer[], seen_timeline text, seen_lsn pg_lsn
) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
    found_checkpoints bigint;
BEGIN
    PERFORM 1 FROM {schema}.workflow_status AS w
      WHERE w.workflow_uuid = id AND w.owner_xid = owner AND w.status = 'PENDING'
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'row fence: workflow % is not PENDING under owner %', id, owner USING ERRCODE = 'KP002', DETAIL = id;
    END IF;
    SELECT count(*) INTO found_checkpoints FROM {schema}.operation_outputs AS o
     WHERE o.workflow_uuid = id AND o.function_id = ANY (checkpoints);
    IF found_checkpoints <> cardinality(checkpoints) THEN
        RAISE EXCEPTION 'row fence: workflow % has % of % earlier checkpoints', id, found_checkpoints, cardinality(checkpoints)
            USING ERRCODE = 'KP003', DETAIL = id;
    END IF;
    RETURN {schema}.fence_database(seen_timeline, seen_lsn);
END;
$$;

-- P7 and P4 for the rows of several workflows whose transactional steps are one commit (decision 0006).
-- `checkpoint_ids` and `function_ids` are the earlier checkpoints the caller knows to be durable, flat.
-- Raises KP002 with a JSON array of the workflows that are not PENDING under their owners, KP003 as fence_row does.
CREATE FUNCTION {schema}.fence_rows(
    ids text[], owners text[], checkpoint_ids text[], function_ids integer[], seen_timeline text, seen_lsn pg_lsn
) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
    held text[];
    lost text[];
    found_checkpoints bigint;
BEGIN
    -- Locked in the order of their IDs, so that two groups never wait for each other in a circle.
    SELECT array_agg(l.id) INTO held FROM (
        SELECT w.workflow_uuid AS id
          FROM unnest(ids, owners) AS t (id, owner)
          JOIN {schema}.workflow_status AS w
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
      JOIN {schema}.operation_outputs AS o ON o.workflow_uuid = t.id AND o.function_id = t.function_id;
    IF found_checkpoints <> cardinality(checkpoint_ids) THEN
        RAISE EXCEPTION 'row fence: % of % earlier checkpoints are there', found_checkpoints, cardinality(checkpoint_ids)
            USING ERRCODE = 'KP003';
    END IF;
    RETURN {schema}.fence_database(seen_timeline, seen_lsn);
END;
$$;
