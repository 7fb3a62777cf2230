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
           FOR UPDATE OF w
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
