-- The fences (protocol P4–P7). They raise, so that a COMMIT already sent in the same pipeline becomes a rollback.
-- SQLSTATEs of ours: KP001 partition, KP002 row, KP003 database. Class K is free for applications in the SQL standard.

-- Epoch ms, the one clock of every statement; tests replace it.
CREATE FUNCTION {schema}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
$$;

-- Whether nothing of an executor is at work any more: marked dead, and the lease it last showed has run out (P2, P9).
-- One without a row is dead.
CREATE FUNCTION {schema}.executor_is_gone(id text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM {schema}.executor AS e
         WHERE e.executor_id = id AND (e.died_at IS NULL OR e.lease_until > {schema}.now_ms())
    )
$$;

-- P6: compare-and-set of whole progress values, in the order given (callers sort by key: locks have one order).
-- Raises KP001 with a JSON array of the 1-based places that are no longer the caller's.
CREATE FUNCTION {schema}.fence_partitions(services text[], keys text[], epochs bigint[], held text[], written text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lost integer[] := '{}';
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        UPDATE {schema}.event_dispatch_kv AS k
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
$$;

-- P4: timeline and WAL position never go back under a live process. Returns them; raises KP003 when they did.
CREATE FUNCTION {schema}.fence_database(seen_timeline text, seen_lsn pg_lsn) RETURNS pg_lsn LANGUAGE plpgsql AS $$
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
$$;

-- P7 for one row outside a flush: locks it where it is PENDING and owned, and requires the checkpoints the caller
-- knows to be durable. Raises KP002. With the database fence, since no compared value covers this row.
CREATE FUNCTION {schema}.fence_row(
    id text, owner text, checkpoints integer[], seen_timeline text, seen_lsn pg_lsn
) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
    found_checkpoints bigint;
BEGIN
    PERFORM 1 FROM {schema}.workflow_status AS w
      WHERE w.workflow_uuid = id AND w.owner_xid = owner AND w.status = 'PENDING'
        FOR UPDATE;
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
