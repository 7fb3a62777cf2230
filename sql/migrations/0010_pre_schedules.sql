-- Schedules (decision 0014): what starts when, who paused it, what each executor has.

-- A schedule has its workflow's name; its last tick is in scheduler_state. Whoever changes either locks this row.
CREATE TABLE {schema}.schedule (
    name text PRIMARY KEY,
    expression text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL CHECK (catch_up IN ('all', 'latest', 'none')),
    version text NOT NULL,                  -- of the code that its ticks are for
    registered_at bigint NOT NULL,
    changed_at bigint,                      -- when it last became another expression, zone or catch_up
    last_tick_at bigint,                    -- time of the newest tick that was started; scheduler_state goes on where one is passed over
    last_started_at bigint,                 -- when that was
    paused_at bigint,                       -- NULL: it is not
    paused_by text,
    pause_note text
);

-- What each executor has: of those alive, the one that started last says what the schedule is.
CREATE TABLE {schema}.executor_schedule (
    executor_id text NOT NULL,
    name text NOT NULL,
    expression text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    version text NOT NULL,
    PRIMARY KEY (name, executor_id)
);
