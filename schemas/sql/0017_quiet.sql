-- What keeps an alert from being told to anybody: marks on one alert (acknowledged, snoozed) and silences, which match
-- many. Evaluation never reads them.

-- A rule for one product: `exchange` and `product` as its alerts have them. An acknowledgement is of one firing: it covers
-- the alerts of a version of the rule up to `acknowledged_seq`, so that the end of it is told, and what fires next, too.
CREATE TABLE alert_marks (
    tenant               text NOT NULL REFERENCES tenants,
    rule_id              text NOT NULL,
    exchange             text NOT NULL,
    product              text NOT NULL,
    acknowledged_version bigint,
    acknowledged_seq     bigint,
    acknowledged_at      timestamptz,
    acknowledged_by      text, -- id of a key
    acknowledged_comment text,
    snoozed_until        timestamptz,
    snoozed_at           timestamptz,
    snoozed_by           text,
    snoozed_comment      text,
    PRIMARY KEY (tenant, rule_id, exchange, product),
    CHECK (num_nulls(acknowledged_version, acknowledged_seq, acknowledged_at, acknowledged_by) IN (0, 4)),
    CHECK (num_nulls(snoozed_until, snoozed_at, snoozed_by) IN (0, 3))
);

-- Whether matchers are such that `matchers_hold` can read them. A CHECK holds them to it, so that the question whether to
-- tell of an alert never fails on what somebody stored.
CREATE FUNCTION matchers_valid(matchers jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN jsonb_typeof(matchers) <> 'array' THEN false
        ELSE jsonb_array_length(matchers) BETWEEN 1 AND 20 AND (
            SELECT bool_and(coalesce(
                jsonb_typeof(one) = 'object'
                AND (one ->> 'name' IN ('rule_id', 'rule_name', 'exchange', 'product', 'severity')
                    OR starts_with(one ->> 'name', 'labels.'))
                AND one ->> 'op' IN ('=', '!=', '=~', '!~')
                AND jsonb_typeof(one -> 'value') = 'string' AND length(one ->> 'value') <= 256, false))
            FROM jsonb_array_elements(matchers) AS one)
        END
$$;

-- Silences, from `starts_at` until before `ends_at` (null: open, for those that come back). With `weekdays` (1: Monday)
-- a silence is a maintenance window: it holds for `minutes` from `from_time` on these days, in the time zone's clock.
CREATE TABLE silences (
    tenant     text NOT NULL REFERENCES tenants,
    silence_id text NOT NULL,
    matchers   jsonb NOT NULL CHECK (matchers_valid(matchers)),
    starts_at  timestamptz NOT NULL,
    ends_at    timestamptz,
    weekdays   smallint[],
    from_time  time,
    minutes    integer,
    time_zone  text,
    comment    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL, -- id of a key
    expired_at timestamptz, -- ended before its time
    expired_by text,
    PRIMARY KEY (tenant, silence_id),
    CHECK (ends_at > starts_at),
    CHECK (num_nulls(weekdays, from_time, minutes, time_zone) IN (0, 4)),
    CHECK (ends_at IS NOT NULL OR weekdays IS NOT NULL),
    CHECK (weekdays <@ '{1,2,3,4,5,6,7}' AND cardinality(weekdays) BETWEEN 1 AND 7),
    CHECK (minutes BETWEEN 1 AND 1440),
    CHECK (time_zone IS NULL OR (TIMESTAMPTZ 'epoch' AT TIME ZONE time_zone) IS NOT NULL), -- fails on an unknown zone
    CHECK (num_nulls(expired_at, expired_by) IN (0, 2))
);
CREATE INDEX silences_by_end ON silences (tenant, coalesce(expired_at, ends_at, 'infinity'));

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['alert_marks', 'silences'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY own_tenant ON %I TO ps_api USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY owner ON %I TO ps_owner USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON %I TO ps_api', name);
    END LOOP;
END $$;
GRANT UPDATE ON alert_marks TO ps_api;
GRANT UPDATE (expired_at, expired_by) ON silences TO ps_api;
CREATE POLICY owner ON alerts FOR SELECT TO ps_owner USING (true);

-- The newest alert of a rule for one product.
CREATE INDEX alerts_by_machine ON alerts (tenant, rule_id, exchange, product, rule_version DESC, seq DESC);

-- Globs: `*` stands for any text, `?` for one character, `|` lies between alternatives. LIKE takes at most time in the
-- product of both lengths, which a regular expression does not promise.
CREATE FUNCTION glob_matches(value text, globs text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT bool_or(value LIKE translate(replace(replace(replace(glob, '\', '\\'), '%', '\%'), '_', '\_'), '*?', '%_'))
    FROM unnest(string_to_array(globs, '|')) AS glob
$$;

-- Whether every matcher holds for an alert: [{"name", "op", "value"}]. A label that is not there is empty.
CREATE FUNCTION matchers_hold(matchers jsonb, facts jsonb, labels jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT bool_and(CASE op
        WHEN '=' THEN fact = value
        WHEN '!=' THEN fact <> value
        WHEN '=~' THEN coalesce(glob_matches(fact, value), fact = '')
        ELSE NOT coalesce(glob_matches(fact, value), fact = '') END)
    FROM (
        SELECT op, value, coalesce(
            CASE WHEN starts_with(name, 'labels.') THEN labels ->> substr(name, 8) ELSE facts ->> name END, '') AS fact
        FROM jsonb_to_recordset(matchers) AS matcher (name text, op text, value text)) AS compared
$$;

-- Whether a silence holds at a time, whatever it matches. A day's window may go on for two days: clocks that are put
-- forward make the next one shorter.
CREATE FUNCTION silence_holds(silence silences, at timestamptz) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT at >= silence.starts_at AND at < coalesce(silence.ends_at, 'infinity')
        AND at < coalesce(silence.expired_at, 'infinity')
        AND (silence.weekdays IS NULL OR EXISTS (
            SELECT FROM generate_series(0, 2) AS back
            CROSS JOIN LATERAL (SELECT (at AT TIME ZONE silence.time_zone)::date - back AS day) AS days
            CROSS JOIN LATERAL (SELECT (day + silence.from_time) AT TIME ZONE silence.time_zone AS begins) AS windows
            WHERE extract(isodow FROM day) = ANY (silence.weekdays)
                AND at >= begins AND at < begins + make_interval(mins => silence.minutes)))
$$;

-- Why an alert is not told to anybody at a time: NULL (tell it), 'acknowledged', 'snoozed until …', 'silence <id>'. It
-- runs with the rights of who asks. Without `rule_version` and `seq` an acknowledgement is held against the newest alert
-- that is stored.
CREATE FUNCTION mute_reason(of_tenant text, of_rule text, of_exchange text, of_product text, of_severity text,
                            of_labels jsonb, at timestamptz, of_version bigint, of_seq bigint) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    mark  alert_marks;
    facts jsonb;
    found text;
BEGIN
    SELECT * INTO mark FROM alert_marks
    WHERE tenant = of_tenant AND rule_id = of_rule AND exchange = of_exchange AND product = of_product;
    IF mark.acknowledged_seq IS NOT NULL AND (of_version IS NULL OR of_seq IS NULL) THEN
        SELECT rule_version, seq INTO of_version, of_seq FROM alerts
        WHERE tenant = of_tenant AND rule_id = of_rule AND exchange = of_exchange AND product = of_product
        ORDER BY rule_version DESC, seq DESC LIMIT 1;
    END IF;
    IF of_version = mark.acknowledged_version AND of_seq <= mark.acknowledged_seq THEN
        RETURN 'acknowledged';
    END IF;
    IF at < mark.snoozed_until THEN
        RETURN 'snoozed until ' || to_char(mark.snoozed_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
    END IF;
    facts := jsonb_build_object(
        'rule_id', of_rule, 'exchange', of_exchange, 'product', of_product, 'severity', of_severity, 'rule_name', (
            SELECT name FROM rules WHERE tenant = of_tenant AND rule_id = of_rule ORDER BY version DESC LIMIT 1));
    SELECT silence_id INTO found FROM silences AS held
    WHERE tenant = of_tenant AND coalesce(expired_at, ends_at, 'infinity') > at
        AND silence_holds(held, at) AND matchers_hold(matchers, facts, of_labels)
    ORDER BY starts_at, silence_id LIMIT 1;
    RETURN 'silence ' || found;
END $$;

-- The same for the notifier, of any tenant. `at` is when it would be told: snoozes, silences and windows are held against
-- it. Give `rule_version` and `seq` of the alert where they are at hand: then the answer does not depend on what the sink
-- has stored by now.
CREATE FUNCTION notification_muted(tenant text, rule_id text, exchange text, product text, severity text, labels jsonb,
                                   at timestamptz, rule_version bigint DEFAULT NULL, seq bigint DEFAULT NULL)
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$ SELECT mute_reason(tenant, rule_id, exchange, product, severity, labels, at, rule_version, seq) $$;
REVOKE ALL ON FUNCTION notification_muted FROM PUBLIC;
GRANT EXECUTE ON FUNCTION notification_muted TO ps_notifier;
