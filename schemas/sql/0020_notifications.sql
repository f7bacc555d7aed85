-- Where alerts go: channels, what is known of the alerts that they were told of, and the messages on their way.
-- The API makes channels and reads the log; the notifier does the rest, for every tenant.
CREATE TABLE channels (
    tenant          text NOT NULL REFERENCES tenants,
    id              text NOT NULL,
    name            text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('webhook', 'email', 'slack', 'telegram')),
    target          jsonb NOT NULL, -- what may be shown of where messages go
    secret          text,           -- the rest: a signing secret, an incoming webhook's URL, a bot's token
    matchers        jsonb NOT NULL,
    group_by        text[] NOT NULL,
    group_wait      double precision NOT NULL, -- seconds, as the next two
    group_interval  double precision NOT NULL,
    repeat_interval double precision NOT NULL,
    send_resolved   boolean NOT NULL,
    enabled         boolean NOT NULL DEFAULT true,
    disabled_reason text,           -- why the notifier, not a person, has disabled it
    failing_since   timestamptz,    -- of the first failure since the last message that was delivered
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
);

-- The last transition taken of each state machine: one that is sent again has no greater seq.
CREATE TABLE notification_heads (
    tenant       text NOT NULL REFERENCES tenants,
    rule_id      text NOT NULL,
    rule_version integer NOT NULL,
    exchange     text NOT NULL,
    product      text NOT NULL,
    seq          bigint NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, rule_id, rule_version, exchange, product)
);

-- Alerts that are told of together. `flush_at` is when the next message is made, null: when there is news.
CREATE TABLE notification_groups (
    tenant       text NOT NULL,
    channel_id   text NOT NULL,
    group_key    text NOT NULL,
    labels       jsonb NOT NULL,
    flush_at     timestamptz,
    flushed_at   timestamptz, -- when the last message was made
    told_at      timestamptz, -- when one was delivered last
    last_message text,
    PRIMARY KEY (tenant, channel_id, group_key),
    FOREIGN KEY (tenant, channel_id) REFERENCES channels ON DELETE CASCADE
);
CREATE INDEX notification_groups_due ON notification_groups (flush_at) WHERE flush_at IS NOT NULL;

-- What each channel has to know of an alert, and knows. An episode is one firing, by its alert_id.
CREATE TABLE notification_alerts (
    tenant       text NOT NULL,
    channel_id   text NOT NULL,
    alert_key    text NOT NULL, -- rule, version, exchange, product
    group_key    text NOT NULL,
    episode      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('firing', 'resolved')),
    seq          bigint NOT NULL, -- of the newest transition
    shown        jsonb NOT NULL, -- as a message shows it
    firings      integer NOT NULL, -- since it was told of last
    told_episode text,
    told_state   text,
    PRIMARY KEY (tenant, channel_id, alert_key),
    FOREIGN KEY (tenant, channel_id) REFERENCES channels ON DELETE CASCADE
);
CREATE INDEX notification_alerts_by_group ON notification_alerts (tenant, channel_id, group_key);

CREATE TABLE notifications (
    tenant       text NOT NULL,
    id           text NOT NULL,
    channel_id   text NOT NULL,
    group_key    text, -- null: a test or a notice
    type         text NOT NULL,
    document     text NOT NULL, -- the bytes of every attempt
    told         jsonb NOT NULL DEFAULT '[]', -- alerts in it: [key, episode, state, firings]
    state        text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'delivered', 'failed', 'superseded', 'muted')),
    detail       text, -- why it is not delivered
    attempts     integer NOT NULL DEFAULT 0,
    step         integer NOT NULL DEFAULT 0, -- of the schedule of retries
    next_at      timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz, -- while an attempt is under way
    created_at   timestamptz NOT NULL DEFAULT now(),
    settled_at   timestamptz,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, channel_id) REFERENCES channels ON DELETE CASCADE
);
CREATE INDEX notifications_due ON notifications (next_at, id) WHERE state = 'waiting';
CREATE INDEX notifications_by_channel ON notifications (tenant, channel_id, created_at, id);
CREATE INDEX notifications_by_age ON notifications (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE notification_attempts (
    tenant     text NOT NULL,
    message_id text NOT NULL,
    number     integer NOT NULL,
    channel_id text NOT NULL,
    at         timestamptz NOT NULL, -- when it began
    seconds    double precision NOT NULL,
    outcome    text NOT NULL CHECK (outcome IN ('delivered', 'failed')),
    status     integer, -- of the answer, null: there was none
    error      text,
    response   text, -- the beginning of the answer
    PRIMARY KEY (tenant, message_id, number),
    FOREIGN KEY (tenant, message_id) REFERENCES notifications ON DELETE CASCADE
);
CREATE INDEX notification_attempts_by_channel ON notification_attempts (tenant, channel_id, at, message_id, number);

-- Where the notifier goes on, and since when there is one: older records make no message.
CREATE TABLE notifier_offsets (
    topic_id    text NOT NULL,
    partition   integer NOT NULL,
    topic       text NOT NULL,
    next_offset bigint NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition)
) WITH (fillfactor = 50);

CREATE TABLE notifier_beginning (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['channels', 'notification_heads', 'notification_groups', 'notification_alerts',
                                'notifications', 'notification_attempts', 'notifier_offsets', 'notifier_beginning'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON %I TO ps_owner USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY every_tenant ON %I TO ps_notifier USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['channels', 'notifications', 'notification_attempts'] LOOP
        EXECUTE format(
            'CREATE POLICY own_tenant ON %I TO ps_api USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant())', name);
    END LOOP;
END $$;

-- The API writes secrets and reads none.
GRANT SELECT (tenant, id, name, kind, target, matchers, group_by, group_wait, group_interval, repeat_interval,
              send_resolved, enabled, disabled_reason, failing_since, created_by, created_at),
    INSERT (tenant, id, name, kind, target, secret, matchers, group_by, group_wait, group_interval, repeat_interval,
            send_resolved, created_by),
    UPDATE (name, target, secret, matchers, group_by, group_wait, group_interval, repeat_interval, send_resolved, enabled,
            disabled_reason, failing_since),
    DELETE ON channels TO ps_api;
GRANT SELECT, INSERT (tenant, id, channel_id, type, document), UPDATE (state, detail, step, next_at, settled_at)
    ON notifications TO ps_api;
GRANT SELECT ON notification_attempts TO ps_api;

CREATE POLICY notifier ON tenants FOR SELECT TO ps_notifier USING (true);
GRANT SELECT (tenant, status) ON tenants TO ps_notifier;
GRANT SELECT, UPDATE (failing_since) ON channels TO ps_notifier;
GRANT SELECT, INSERT, UPDATE, DELETE ON notification_heads, notification_groups, notification_alerts, notifications
    TO ps_notifier;
GRANT SELECT, INSERT ON notification_attempts TO ps_notifier;
GRANT SELECT, INSERT, UPDATE ON notifier_offsets TO ps_notifier;
GRANT SELECT, INSERT ON notifier_beginning TO ps_notifier;

-- The one row of the audit that the notifier can write: that it disabled a channel which fails for good. Returns false
-- where it was disabled, paused or deleted before.
CREATE FUNCTION disable_channel(of_tenant text, channel text, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    bound text := coalesce(current_tenant(), '');
BEGIN
    UPDATE channels SET enabled = false, disabled_reason = reason
    WHERE tenant = of_tenant AND id = channel AND enabled;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE notifications SET state = 'failed', detail = 'the channel was disabled', settled_at = now(), leased_until = NULL
    WHERE tenant = of_tenant AND channel_id = channel AND state = 'waiting';
    PERFORM set_config('pulsestream.tenant', of_tenant, true);
    PERFORM append_audit('channel.disable', NULL, 'channel:' || channel, jsonb_build_object(
        'actor', jsonb_build_object('id', NULL, 'role', NULL),
        'request_id', '',
        'before', jsonb_build_object('enabled', true),
        'after', jsonb_build_object('enabled', false, 'disabled_reason', reason)));
    PERFORM set_config('pulsestream.tenant', bound, true);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION disable_channel FROM PUBLIC;
GRANT EXECUTE ON FUNCTION disable_channel TO ps_notifier;
