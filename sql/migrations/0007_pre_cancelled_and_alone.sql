-- Workflows that were cancelled while a step of theirs runs: their keys wait for it, also at the next owner (P12, P18).
-- Nearly always empty: whoever runs the step takes its name away when that has ended.
CREATE INDEX workflow_status_kafka_cancelled_index ON {schema}.workflow_status (kafka_source)
    WHERE kafka_source IS NOT NULL AND status = 'CANCELLED' AND owner_xid IS NOT NULL;

-- The workflows that ran alone in a process when a claim was lost, and did not kill it: no deaths of theirs (P22).
ALTER TABLE {schema}.executor ADD COLUMN survived_alone text[];
