-- The table that examples/fulfil.py writes.
CREATE TABLE IF NOT EXISTS sale (
    order_id text PRIMARY KEY,
    receipt text NOT NULL
);
