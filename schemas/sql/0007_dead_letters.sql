-- Dead letters, so that they can be searched: the sink copies them from the tenants' dead-letter topics. `letter` is the
-- whole record of the topic, in Confluent's wire format. The columns from `settled` on are what became of a letter, by
-- the API alone: null while it is open. An id is deterministic, so a topic that is read again changes nothing here.
CREATE TABLE dead_letters (
    tenant         text NOT NULL,
    id             text NOT NULL,
    reason         text NOT NULL,
    message        text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    "offset"       bigint NOT NULL,
    key            bytea,
    size           bigint,
    first_seen     timestamptz NOT NULL,
    replay_of      text,
    replays        integer NOT NULL,
    letter         bytea NOT NULL,
    appended_at    timestamptz NOT NULL,
    settled        text CHECK (settled IN ('replayed', 'discarded')),
    settled_at     timestamptz,
    settled_by     text,
    settled_reason text,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX dead_letters_by_time ON dead_letters (tenant, first_seen, id);
CREATE INDEX dead_letters_open ON dead_letters (tenant, first_seen, id) WHERE settled IS NULL;
CREATE INDEX dead_letters_by_reason ON dead_letters (tenant, reason, first_seen, id);
CREATE INDEX dead_letters_by_topic ON dead_letters (tenant, topic, first_seen, id);
CREATE INDEX dead_letters_by_origin ON dead_letters (tenant, replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX dead_letters_by_age ON dead_letters (appended_at); -- for the relay, which removes the oldest

ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
ALTER TABLE dead_letters FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON dead_letters TO ps_api
    USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant());
CREATE POLICY every_tenant ON dead_letters TO ps_relay USING (true);
GRANT SELECT, INSERT ON dead_letters TO ps_sink;
GRANT SELECT, UPDATE (settled, settled_at, settled_by, settled_reason) ON dead_letters TO ps_api;
GRANT SELECT (tenant, id, appended_at), DELETE ON dead_letters TO ps_relay;

-- A trial replay says whether an event's id is another event's already.
GRANT SELECT (tenant, event_id, body) ON event_ids TO ps_api;
