-- name: bind_tenant
SELECT set_config('pulsestream.tenant', %(tenant)s, true), set_config('statement_timeout', %(timeout)s, true);

-- name: ping
SELECT 1 AS one;

-- name: applied_migrations
SELECT version, checksum FROM schema_migrations;

-- name: find_api_key
SELECT tenant, role, hmac, pepper_version, expires_at, revoked_at, tenant_status, tier
FROM find_api_key(%(key_id)s);

-- name: lock_tenant
-- Control changes of one tenant take turns, so that versions and outbox ids of a key rise in the order of commits.
SELECT status FROM tenants WHERE tenant = %(tenant)s FOR NO KEY UPDATE;

-- name: hold_tenant
SELECT tenant, name, tier, status, shard, created_at, version, was_suspended FROM tenants
WHERE tenant = %(tenant)s FOR NO KEY UPDATE;

-- name: change_tenant
UPDATE tenants SET
    tier = %(tier)s,
    status = %(status)s,
    delete_after = CASE WHEN %(status)s = 'deleting' THEN coalesce(now() + %(grace)s::interval, delete_after) END,
    was_suspended = %(status)s = 'deleting' AND (was_suspended OR status = 'suspended'),
    version = nextval('control_version')
WHERE tenant = %(tenant)s
RETURNING tenant, name, tier, status, shard, created_at, version;

-- name: delete_tenant
UPDATE tenants SET status = 'deleting', delete_after = now() + %(grace)s, version = nextval('control_version')
WHERE tenant = %(tenant)s
RETURNING tenant, name, tier, status, shard, created_at, version, delete_after;

-- name: erasures_due
SELECT tenant FROM tenants WHERE delete_after <= now() ORDER BY delete_after, tenant;

-- name: begin_erasure
INSERT INTO erasures (tenant, step)
SELECT tenant, 'control' FROM tenants WHERE tenant = %(tenant)s AND delete_after <= now()
ON CONFLICT DO NOTHING;

-- name: erasure_step
SELECT step FROM erasures WHERE tenant = %(tenant)s AND finished_at IS NULL;

-- name: note_erasure
UPDATE erasures SET step = %(step)s WHERE tenant = %(tenant)s;

-- name: erasure_rules
SELECT DISTINCT rule_id FROM rules WHERE tenant = %(tenant)s ORDER BY rule_id;

-- name: erasure_found
-- What is removed is written down first, and once.
UPDATE erasures SET
    topics = ARRAY(SELECT unnest(topics) UNION SELECT unnest(%(topics)s::text[]) ORDER BY 1),
    users = ARRAY(SELECT unnest(users) UNION SELECT unnest(%(users)s::text[]) ORDER BY 1),
    rules = ARRAY(SELECT unnest(rules) UNION SELECT unnest(%(rules)s::text[]) ORDER BY 1),
    groups = ARRAY(SELECT unnest(groups) UNION SELECT unnest(%(groups)s::text[]) ORDER BY 1)
WHERE tenant = %(tenant)s;

-- name: erasure_removed
UPDATE erasures SET removed = jsonb_set(
    removed, ARRAY[%(table)s::text], to_jsonb(coalesce((removed ->> %(table)s::text)::bigint, 0) + %(rows)s::bigint))
WHERE tenant = %(tenant)s;

-- name: erasure_tables
-- Tables that hold rows of tenants; `open`: the role at work may remove them, and sees them.
SELECT relname AS name, by.topic AS by_topic,
    (SELECT array_agg(attname ORDER BY place)
     FROM pg_index CROSS JOIN LATERAL unnest(indkey) WITH ORDINALITY AS part (number, place)
     JOIN pg_attribute ON attrelid = indrelid AND attnum = number
     WHERE indrelid = pg_class.oid AND indisprimary) AS key,
    ARRAY(SELECT to_class.relname FROM pg_constraint JOIN pg_class AS to_class ON to_class.oid = confrelid
          WHERE conrelid = pg_class.oid AND contype = 'f') AS refers,
    has_table_privilege(pg_class.oid, 'DELETE') AND (
        NOT row_security_active(pg_class.oid)
        OR EXISTS (SELECT FROM pg_policy
                   WHERE polrelid = pg_class.oid AND polpermissive AND polcmd = '*'
                       AND (SELECT oid FROM pg_roles WHERE rolname = current_user) = ANY (polroles))) AS open
FROM pg_class
CROSS JOIN LATERAL (
    SELECT bool_or(attname = 'tenant') AS tenant, count(*) FILTER (WHERE attname IN ('topic', 'topic_id')) = 2 AS topic
    FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped) AS by
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND (by.tenant OR by.topic)
ORDER BY relname;

-- name: erasure_count
SELECT count(*) AS rows FROM {table} WHERE {owner} = %(tenant)s;

-- name: erasure_last
SELECT {key} FROM (
    SELECT {key}, row_number() OVER (ORDER BY {key}) AS place
    FROM {table} WHERE {owner} = %(tenant)s ORDER BY {key} LIMIT %(limit)s) AS first
ORDER BY place DESC LIMIT 1;

-- name: erasure_remove
DELETE FROM {table} WHERE {owner} = %(tenant)s AND {first} <= {lead} AND ({key}) <= ({places});

-- name: erasure_remove_some
DELETE FROM {table}
WHERE {owner} = %(tenant)s AND ({key}) IN (SELECT {key} FROM {table} WHERE {owner} = %(tenant)s LIMIT %(limit)s);

-- name: erasure_outbox
WITH gone AS (
    DELETE FROM outbox WHERE tenant = %(tenant)s AND published_at IS NOT NULL RETURNING id
)
UPDATE erasures SET removed = jsonb_set(
    removed, ARRAY['outbox'], to_jsonb(coalesce((removed ->> 'outbox')::bigint, 0) + (SELECT count(*) FROM gone)))
WHERE tenant = %(tenant)s AND EXISTS (SELECT FROM gone);

-- name: erasure_outbox_left
SELECT count(*) AS rows FROM outbox WHERE tenant = %(tenant)s;

-- name: finish_erasure
UPDATE erasures SET step = 'done', finished_at = now() WHERE tenant = %(tenant)s
RETURNING topics, users, rules, groups, removed;

-- name: mark_deleted
UPDATE tenants SET status = 'deleted', delete_after = NULL, name = tenant, version = nextval('control_version')
WHERE tenant = %(tenant)s;

-- name: erasure_is_finished
SELECT coalesce((SELECT finished_at IS NOT NULL FROM erasures WHERE tenant = %(tenant)s), false) AS finished;

-- name: list_erasures
SELECT tenant, step, begun_at, finished_at, topics, users, rules, groups, removed FROM erasures
WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s ORDER BY begun_at, tenant;

-- name: renew_subscriptions
UPDATE subscriptions SET since = now(), version = nextval('control_version') WHERE tenant = %(tenant)s
RETURNING exchange, product, datasets, since, version;

-- name: list_tenants
SELECT tenant, name, tier, status, delete_after, created_at,
    (SELECT count(*) FROM subscriptions AS held WHERE held.tenant = tenants.tenant) AS products,
    (SELECT max(day) FROM usage AS held WHERE held.tenant = tenants.tenant) AS last_used
FROM tenants
WHERE %(status)s::text IS NULL OR status = %(status)s
ORDER BY tenant;

-- name: recent_usage
SELECT day, requests, events, bytes, refused FROM usage WHERE tenant = %(tenant)s ORDER BY day DESC LIMIT 7;

-- name: list_tenant_keys
SELECT id, name, role, created_at, expires_at, revoked_at, last_used_at FROM api_keys
WHERE tenant = %(tenant)s ORDER BY created_at, id;

-- name: tenant_tier
SELECT tier FROM tenants WHERE tenant = %(tenant)s;

-- name: add_usage
SELECT add_usage(
    %(process)s, %(batch)s, %(day)s, %(tenants)s::text[], %(requests)s::bigint[], %(events)s::bigint[],
    %(bytes)s::bigint[], %(refused)s::bigint[]) AS added;

-- name: list_usage
SELECT day, requests, events, bytes, refused FROM usage
WHERE tenant = %(tenant)s AND day BETWEEN %(first)s AND %(last)s
ORDER BY day;

-- name: tenant_and_use
SELECT tenant, name, tier, status, created_at,
    (SELECT count(*) FROM subscriptions AS held WHERE held.tenant = tenants.tenant) AS products,
    (SELECT count(*) FROM (
        SELECT DISTINCT ON (rule_id) deleted FROM rules AS held
        WHERE held.tenant = tenants.tenant
        ORDER BY rule_id, version DESC) AS newest WHERE NOT deleted) AS rules,
    (SELECT count(*) FROM api_keys AS held
        WHERE held.tenant = tenants.tenant AND revoked_at IS NULL AND coalesce(expires_at > now(), true)) AS keys,
    (SELECT count(*) FROM channels AS held WHERE held.tenant = tenants.tenant) AS channels,
    (SELECT count(*) FROM kafka_credentials AS held
        WHERE held.tenant = tenants.tenant AND revoked_at IS NULL AND lost_at IS NULL
            AND coalesce(expires_at > now(), true)) AS kafka_credentials
FROM tenants WHERE tenant = %(tenant)s;

-- name: insert_tenant
INSERT INTO tenants (tenant, name, tier) VALUES (%(tenant)s, %(name)s, %(tier)s)
RETURNING tenant, name, tier, status, shard, created_at, version;

-- name: use_invitation
SELECT use_invitation(%(id)s, %(hash)s) AS tier;

-- name: insert_invitation
INSERT INTO invitations (id, secret_hash, tier, uses, note, expires_at)
VALUES (%(id)s, %(hash)s, %(tier)s, %(uses)s, %(note)s, now() + %(life)s)
RETURNING expires_at;

-- name: list_invitations
SELECT id, tier, uses, used, note, created_at, expires_at, revoked_at,
    CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN used >= uses THEN 'used up'
         WHEN expires_at <= now() THEN 'expired' ELSE 'open' END AS state
FROM invitations ORDER BY created_at DESC, id;

-- name: revoke_invitation
UPDATE invitations SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL;

-- name: insert_key
INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version, created_by, expires_at)
VALUES (%(tenant)s, %(id)s, %(name)s, %(role)s, %(hmac)s, %(pepper_version)s, %(created_by)s, %(expires_at)s)
RETURNING id, name, role, created_at, created_by, expires_at, revoked_at, replaced_by, last_used_at;

-- name: find_key
SELECT id, name, role, created_at, created_by, expires_at, revoked_at, replaced_by, last_used_at
FROM api_keys WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: list_keys
SELECT id, name, role, created_at, created_by, expires_at, revoked_at, replaced_by, last_used_at
FROM api_keys
WHERE tenant = %(tenant)s
    AND (%(state)s::text IS NULL OR %(state)s =
         CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= %(now)s THEN 'expired' ELSE 'active' END)
    AND (%(time)s::timestamptz IS NULL OR (created_at, id) < (%(time)s, %(id)s::text))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: count_keys
SELECT count(*) AS active, count(*) FILTER (WHERE role = 'owner' AND expires_at IS NULL) AS lasting_owners
FROM api_keys
WHERE tenant = %(tenant)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > %(now)s);

-- name: change_key
UPDATE api_keys SET name = %(name)s, expires_at = %(expires_at)s, replaced_by = %(replaced_by)s
WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: revoke_key
UPDATE api_keys SET revoked_at = %(now)s WHERE tenant = %(tenant)s AND id = %(id)s AND revoked_at IS NULL;

-- name: insert_kafka_credential
INSERT INTO kafka_credentials (tenant, id, name, salt, iterations, salted_password, created_by, expires_at)
VALUES (%(tenant)s, %(id)s, %(name)s, %(salt)s, %(iterations)s, %(salted_password)s, %(created_by)s, %(expires_at)s)
RETURNING id, name, created_at, created_by, expires_at, revoked_at, replaced_by, active_at, lost_at, removed_at;

-- name: find_kafka_credential
SELECT id, name, created_at, created_by, expires_at, revoked_at, replaced_by, active_at, lost_at, removed_at
FROM kafka_credentials WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: list_kafka_credentials
SELECT id, name, created_at, created_by, expires_at, revoked_at, replaced_by, active_at, lost_at, removed_at
FROM kafka_credentials
WHERE tenant = %(tenant)s
    AND (%(with_ended)s
         OR (revoked_at IS NULL AND lost_at IS NULL AND (expires_at IS NULL OR expires_at > %(now)s)))
    AND (%(time)s::timestamptz IS NULL OR (created_at, id) < (%(time)s, %(id)s::text))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: count_kafka_credentials
SELECT count(*) FROM kafka_credentials
WHERE tenant = %(tenant)s AND revoked_at IS NULL AND lost_at IS NULL AND (expires_at IS NULL OR expires_at > %(now)s);

-- name: end_kafka_credential
UPDATE kafka_credentials
SET expires_at = %(expires_at)s, revoked_at = %(revoked_at)s, replaced_by = %(replaced_by)s
WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: notify_kafka_credentials
SELECT pg_notify('pulsestream_kafka_credentials', '');

-- name: note_key_use
SELECT note_key_use(%(ids)s::text[], %(times)s::timestamptz[]);

-- name: insert_outbox
WITH inserted AS (
    INSERT INTO outbox (tenant, topic, key, value) VALUES (%(tenant)s, %(topic)s, %(key)s, %(value)s)
)
SELECT pg_notify('pulsestream_outbox', '');

-- name: list_subscriptions
SELECT exchange, product, datasets, since FROM subscriptions WHERE tenant = %(tenant)s ORDER BY exchange, product;

-- name: put_subscription
INSERT INTO subscriptions (tenant, exchange, product, datasets)
VALUES (%(tenant)s, %(exchange)s, %(product)s, %(datasets)s)
ON CONFLICT (tenant, exchange, product) DO UPDATE
SET datasets = EXCLUDED.datasets, version = EXCLUDED.version
RETURNING since, version;

-- name: delete_subscription
DELETE FROM subscriptions WHERE tenant = %(tenant)s AND exchange = %(exchange)s AND product = %(product)s;

-- name: request_topics
WITH inserted AS (
    INSERT INTO tenant_topics (tenant, dataset)
    SELECT %(tenant)s, dataset FROM unnest(%(datasets)s::text[]) AS dataset
    ON CONFLICT DO NOTHING
)
SELECT pg_notify('pulsestream_topics', '');

-- name: list_topics
SELECT dataset, status, detail FROM tenant_topics WHERE tenant = %(tenant)s ORDER BY dataset;

-- name: claim_idempotency_key
-- The first use is kept until it is too old; whoever comes at the same time waits for it here.
INSERT INTO idempotency_keys AS held (tenant, key, fingerprint, used_at)
VALUES (%(tenant)s, %(key)s, %(fingerprint)s, now())
ON CONFLICT (tenant, key) DO UPDATE SET
    fingerprint = CASE WHEN held.used_at < now() - make_interval(hours => %(hours)s)
                       THEN EXCLUDED.fingerprint ELSE held.fingerprint END,
    used_at = CASE WHEN held.used_at < now() - make_interval(hours => %(hours)s)
                   THEN EXCLUDED.used_at ELSE held.used_at END
RETURNING fingerprint, used_at;

-- name: insert_rule
INSERT INTO rules (tenant, rule_id, version, name, enabled, deleted, definition, created_by)
VALUES (%(tenant)s, %(rule_id)s, %(version)s, %(name)s, %(enabled)s, %(deleted)s, %(definition)s::text::jsonb, %(created_by)s)
RETURNING rule_id, version, name, enabled, deleted, definition, created_by, created_at, effective_at;

-- name: list_rules
SELECT * FROM (
    SELECT DISTINCT ON (rule_id)
           rule_id, version, name, enabled, deleted, definition, created_by, created_at, effective_at
    FROM rules WHERE tenant = %(tenant)s
    ORDER BY rule_id, version DESC
) AS newest WHERE NOT deleted ORDER BY rule_id;

-- name: find_rule
SELECT rule_id, version, name, enabled, deleted, definition, created_by, created_at, effective_at
FROM rules WHERE tenant = %(tenant)s AND rule_id = %(rule_id)s
ORDER BY version DESC LIMIT 1;

-- name: list_rule_versions
-- Newest first; `before` is the definition of the version before, `ended_at` when the next one took its place.
SELECT version, name, enabled, deleted, definition, created_by, created_at, effective_at,
    (SELECT definition FROM rules AS one
     WHERE one.tenant = held.tenant AND one.rule_id = held.rule_id AND one.version = held.version - 1) AS before,
    (SELECT effective_at FROM rules AS one
     WHERE one.tenant = held.tenant AND one.rule_id = held.rule_id AND one.version = held.version + 1) AS ended_at
FROM rules AS held
WHERE tenant = %(tenant)s AND rule_id = %(rule_id)s AND version < coalesce(%(below)s, 9223372036854775807)
ORDER BY version DESC LIMIT %(limit)s;

-- name: stored_ticks
-- For evaluation, in order of event time; times in microseconds.
SELECT (extract(epoch FROM exchange_time) * 1000000)::bigint,
    (extract(epoch FROM appended_at) * 1000000)::bigint,
    exchange, product, price, size, side,
    sequence, event_id, best_bid, best_ask,
    (extract(epoch FROM quote_time) * 1000000)::bigint
FROM ticks
WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s {conditions}
ORDER BY exchange_time, sequence, event_id

-- name: stored_trades
SELECT (extract(epoch FROM exchange_time) * 1000000)::bigint,
    (extract(epoch FROM appended_at) * 1000000)::bigint,
    exchange, product, price, size, side,
    trade_id
FROM trades
WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s {conditions}
ORDER BY exchange_time, trade_id, event_id

-- name: stored_times
SELECT exchange_time FROM {table}
WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s {conditions}

-- name: stored_of_products
AND product = ANY(%(products)s)

-- name: stored_of_exchanges
AND exchange = ANY(%(exchanges)s)

-- name: stored_untraded
-- Ticks of products whose prices are those of their trades.
AND (exchange || ':' || product) <> ALL(%(traded)s)

-- name: stored_traded
SELECT DISTINCT exchange, product FROM trades
WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s {conditions}

-- name: stored_before_the_newest
-- The time of the record that the newest so many come after; no row: there are not more.
SELECT exchange_time FROM ({times}) AS held ORDER BY exchange_time DESC OFFSET %(most)s LIMIT 1

-- name: stored_newest
-- Of the whole tenant.
SELECT greatest(
    (SELECT max(exchange_time) FROM ticks
     WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s),
    (SELECT max(exchange_time) FROM trades
     WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s)
) AS newest

-- name: anything_stored
SELECT EXISTS (SELECT FROM ticks WHERE tenant = %(tenant)s) OR EXISTS (SELECT FROM trades WHERE tenant = %(tenant)s)

-- name: search_rows
SELECT {columns} FROM {table} WHERE tenant = %(tenant)s {conditions}
ORDER BY {order} LIMIT %(limit)s

-- name: search_edges
-- The keys of the first row and of the nth, where there are as many.
SELECT * FROM (
    SELECT {columns}, row_number() OVER (ORDER BY {order}) AS place FROM {table} WHERE tenant = %(tenant)s {conditions}
    ORDER BY {order} LIMIT %(near)s) AS nearest
WHERE place IN (1, %(near)s) ORDER BY place;

-- name: search_far
-- Ordered by an expression, which no index gives: all that contains what is asked for is found by the index of that.
SELECT {columns} FROM own_events WHERE true {conditions}
ORDER BY {order} LIMIT %(limit)s

-- name: count_rows
SELECT count(*) AS rows FROM (
    SELECT FROM {table} WHERE tenant = %(tenant)s {conditions} LIMIT %(limit)s) AS counted;

-- name: count_within
SELECT set_config('statement_timeout', %(timeout)s, true);

-- name: estimate_rows
EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE tenant = %(tenant)s {conditions};

-- name: ingested_horizon
SELECT ingested_horizon() AS horizon;

-- name: where_equal
AND {column} = {value}

-- name: where_equal_bytes
AND {column} COLLATE "C" = {value}

-- name: where_prefix
AND {column} COLLATE "C" >= {value}

-- name: where_below_bytes
AND {column} COLLATE "C" < {value}

-- name: where_contains
AND {column} @> {value}::jsonb

-- name: where_contains_of_tenant
AND jsonb_set('{{}}', ARRAY[tenant], {column}) @> jsonb_build_object(%(tenant)s::text, {value}::jsonb)

-- name: where_from
AND {column} >= {value}

-- name: where_to
AND {column} < {value}

-- name: where_settled
AND ingested < (SELECT ingested_horizon())

-- name: where_behind
AND ({columns}) {beyond} ({values})

-- name: where_at_or_behind
AND ({columns}) {beyond_or_at} ({values})

-- name: where_up_to
AND ({columns}) {before_or_at} ({values})

-- name: read_series
-- Stored bars of a series gathered into periods. Of several with one start the complete one counts, by trades first. Where
-- more are stored than are read, what is read of the farthest period may not be all of it.
WITH stored AS (
    SELECT start, exchange, open, high, low, close, volume, quote_volume, trades, buy_volume, complete, origin,
           date_bin(%(period)s, start, %(anchor)s) AS begin
    FROM bars
    WHERE tenant = %(tenant)s AND product = %(product)s AND period = %(stored)s {conditions}
    ORDER BY start {direction} LIMIT %(most)s
), edge AS (
    SELECT count(*) AS bars, {farthest}(begin) AS begin FROM stored
), chosen AS (
    SELECT DISTINCT ON (exchange, start) * FROM stored
    ORDER BY exchange, start, complete DESC, array_position(ARRAY['trades', 'exchange', 'ticks'], origin)
)
SELECT chosen.begin AS start, exchange, (array_agg(open ORDER BY start))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY start DESC))[1] AS close, sum(volume) AS volume,
       CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume) END AS quote_volume,
       CASE WHEN count(trades) = count(*) THEN sum(trades)::bigint END AS trades,
       CASE WHEN count(buy_volume) = count(*) THEN sum(buy_volume) END AS buy_volume,
       bool_and(complete) AS complete, count(*) AS bars,
       edge.bars >= %(most)s AND chosen.begin = edge.begin AS is_cut
FROM chosen CROSS JOIN edge
GROUP BY chosen.begin, exchange, edge.bars, edge.begin
ORDER BY chosen.begin {direction}, exchange {direction} LIMIT %(limit)s;

-- name: series_exchange
AND exchange = %(exchange)s

-- name: series_origin
AND origin = %(origin)s

-- name: series_from
AND start >= %(from)s

-- name: series_to
AND start < %(to)s

-- name: series_behind
AND (date_bin(%(period)s, start, %(anchor)s), exchange) {beyond} (%(cursor_time)s::timestamptz, %(cursor_exchange)s::text)

-- name: close_before
SELECT close FROM bars
WHERE tenant = %(tenant)s AND product = %(product)s AND period = %(stored)s AND start < %(from)s {conditions}
ORDER BY start DESC, complete DESC, array_position(ARRAY['trades', 'exchange', 'ticks'], origin) LIMIT 1;

-- name: read_feeds
-- What the ledger says of connections and products; row level security leaves the tenant's own.
SELECT key, exchange, product, state, at, last_trade_id, complete_until, appended_at
FROM feeds
WHERE gap_kind IS NULL AND exchange = ANY(%(exchanges)s);

-- name: read_feed_gaps
-- Gaps that are open or were closed since a time: of each product or connection (the key says which) the first few,
-- open ones first, then the newest.
SELECT key, exchange, product, gap_kind, gap_from_id, gap_to_id, gap_missing, gap_opened, gap_closed, gap_cause, of_all
FROM (
    SELECT *,
           row_number() OVER (PARTITION BY exchange, scope ORDER BY gap_closed IS NOT NULL, gap_opened DESC, key) AS nth,
           count(*) OVER (PARTITION BY exchange, scope) AS of_all
    FROM feeds
    CROSS JOIN LATERAL split_part(key, ':', 3) AS scope
    WHERE gap_kind IN ('time', 'trade_id')
        AND exchange = ANY(%(exchanges)s)
        AND (product IS NULL OR product = ANY(%(products)s))
        AND (gap_closed IS NULL OR gap_closed >= %(from)s)
) AS ranked
WHERE nth <= %(limit)s
ORDER BY exchange, scope, nth;

-- name: read_skipped_ids
-- What an exchange jumped over when it began to count its trades anew.
SELECT exchange, product, gap_from_id, gap_to_id
FROM feeds
WHERE gap_cause = 'renumbered' AND gap_closed >= %(from)s AND exchange = ANY(%(exchanges)s)
    AND product = ANY(%(products)s);

-- name: read_trade_hours
-- Of each product the hours from a time on, and the last one before it.
SELECT own.exchange, own.product, counted.hour, counted.trades, counted.first_id, counted.last_id
FROM unnest(%(exchanges)s::text[], %(products)s::text[]) AS own (exchange, product)
CROSS JOIN LATERAL (
    (SELECT hour, trades, first_id, last_id FROM trade_hours AS held
     WHERE held.tenant = %(tenant)s AND held.exchange = own.exchange AND held.product = own.product
         AND hour >= %(from)s)
    UNION ALL
    (SELECT hour, trades, first_id, last_id FROM trade_hours AS held
     WHERE held.tenant = %(tenant)s AND held.exchange = own.exchange AND held.product = own.product
         AND hour < %(from)s
     ORDER BY hour DESC LIMIT 1)
) AS counted
ORDER BY own.exchange, own.product, counted.hour;

-- name: search_dead_letters
SELECT id, reason, message, topic, partition, "offset", key, size, first_seen, replay_of, replays, settled, settled_at,
       settled_by, settled_reason
FROM dead_letters WHERE tenant = %(tenant)s {filters}
ORDER BY first_seen {direction}, id {direction} LIMIT %(limit)s;

-- name: find_dead_letters
SELECT id, reason, message, topic, partition, "offset", key, size, first_seen, replay_of, replays, settled, settled_at,
       settled_by, settled_reason
FROM dead_letters WHERE tenant = %(tenant)s AND id = ANY(%(ids)s);

-- name: filter_letters_open
AND settled IS NULL

-- name: filter_letters_settled
AND settled = %(settled)s

-- name: filter_letters_reason
AND reason = %(reason)s

-- name: filter_letters_topic
AND topic = %(topic)s

-- name: filter_letters_key
AND key = %(key)s

-- name: filter_letters_from
AND first_seen >= %(from)s

-- name: filter_letters_to
AND first_seen < %(to)s

-- name: filter_letters_behind_asc
AND (first_seen, id) > (%(cursor_time)s::timestamptz, %(cursor_id)s::text)

-- name: filter_letters_behind_desc
AND (first_seen, id) < (%(cursor_time)s::timestamptz, %(cursor_id)s::text)

-- name: read_dead_letter
SELECT letter FROM dead_letters WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: refused_replays
SELECT id FROM dead_letters WHERE tenant = %(tenant)s AND replay_of = %(id)s ORDER BY first_seen, id LIMIT 100;

-- name: lock_dead_letters
-- What another replay holds is left to it.
SELECT id, letter FROM dead_letters
WHERE tenant = %(tenant)s AND id = ANY(%(ids)s) AND settled IS NULL
ORDER BY first_seen, id
FOR UPDATE SKIP LOCKED;

-- name: settle_dead_letters
UPDATE dead_letters
SET settled = %(settled)s, settled_at = now(), settled_by = %(by)s, settled_reason = %(reason)s
WHERE tenant = %(tenant)s AND id = ANY(%(ids)s) AND settled IS NULL
RETURNING id;

-- name: event_body
SELECT body FROM event_ids WHERE tenant = %(tenant)s AND event_id = %(event_id)s;

-- name: make_twin
CREATE TEMPORARY TABLE {twin} (LIKE {table} INCLUDING INDEXES) ON COMMIT DROP;

-- name: copy_into_twin
COPY {twin} ({columns}) FROM STDIN (FORMAT BINARY);

-- name: take_relay_lock
SELECT pg_try_advisory_lock(%(lock)s) AS taken;

-- name: listen_outbox
LISTEN pulsestream_outbox;

-- name: listen_topics
LISTEN pulsestream_topics;

-- name: waiting_outbox
SELECT id, topic, key, value FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT %(limit)s;

-- name: count_outbox
SELECT count(*) AS waiting FROM outbox WHERE published_at IS NULL;

-- name: mark_published
UPDATE outbox SET published_at = now() WHERE id = ANY(%(ids)s);

-- name: mark_effective
UPDATE rules SET effective_at = %(effective_at)s
WHERE tenant = %(tenant)s AND rule_id = %(rule_id)s AND version = %(version)s AND effective_at IS NULL;

-- name: prune_outbox
DELETE FROM outbox WHERE published_at < now() - INTERVAL '1 day';

-- name: prune_idempotency_keys
DELETE FROM idempotency_keys WHERE (tenant, key) IN (
    SELECT tenant, key FROM idempotency_keys
    WHERE used_at < now() - make_interval(hours => %(hours)s) ORDER BY used_at LIMIT %(limit)s
);

-- name: prune_dead_letters
DELETE FROM dead_letters
WHERE (tenant, id) IN (
    SELECT tenant, id FROM dead_letters
    WHERE appended_at < now() - make_interval(days => %(days)s)
    ORDER BY appended_at LIMIT %(limit)s);

-- name: topics_to_make
-- Of a tenant that is deleted nothing is made any more.
SELECT tenant, dataset, wanted.status FROM tenant_topics AS wanted JOIN tenants USING (tenant)
WHERE topic_id IS NULL AND (wanted.status = 'provisioning' OR (wanted.status = 'refused' AND %(again)s))
    AND tenants.status IN ('active', 'suspended')
ORDER BY requested_at, tenant, dataset;

-- name: topics_made
SELECT tenant, dataset, made.status, topic_id FROM tenant_topics AS made JOIN tenants USING (tenant)
WHERE topic_id IS NOT NULL AND tenants.status IN ('active', 'suspended')
ORDER BY tenant, dataset;

-- name: mark_active
UPDATE tenant_topics SET status = 'active', topic_id = %(topic_id)s, detail = NULL, active_at = now()
WHERE tenant = %(tenant)s AND dataset = %(dataset)s;

-- name: mark_refused
UPDATE tenant_topics SET status = 'refused', detail = %(detail)s, active_at = NULL
WHERE tenant = %(tenant)s AND dataset = %(dataset)s;

-- name: listen_kafka_credentials
LISTEN pulsestream_kafka_credentials;

-- name: kafka_credentials_there
-- What the broker knows, or should, those that ended first; of them all, or those of which it is to be told something.
SELECT tenant, id, salt, iterations, salted_password, active_at IS NOT NULL AS known, ended, tier, welcome, siblings, wanted
FROM (
    SELECT held.*, tier, status = 'active' AS welcome, concat_ws('/', tier, status, siblings) AS wanted
    FROM (
        SELECT *, count(*) FILTER (WHERE NOT ended) OVER (PARTITION BY tenant) AS siblings
        FROM (
            SELECT *, revoked_at IS NOT NULL OR lost_at IS NOT NULL OR coalesce(expires_at <= now(), false) AS ended
            FROM kafka_credentials WHERE removed_at IS NULL) AS there) AS held
    JOIN tenants USING (tenant)) AS told
WHERE %(all)s OR ended OR rights IS DISTINCT FROM wanted
ORDER BY ended DESC, tenant, id;

-- name: any_kafka_credential
SELECT 1 FROM kafka_credentials LIMIT 1;

-- name: mark_kafka_credential_given
UPDATE kafka_credentials
SET rights = %(rights)s, salted_password = NULL, active_at = coalesce(active_at, now())
WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: mark_kafka_credential_lost
UPDATE kafka_credentials SET lost_at = now() WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: mark_kafka_credential_removed
UPDATE kafka_credentials SET removed_at = now(), salted_password = NULL WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: retention_tiers
SELECT tenant, tier FROM tenants ORDER BY tenant;

-- name: retention_has_chunks
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS found;

-- name: take_retention_lock
SELECT pg_try_advisory_lock(%(lock)s) AS taken;

-- name: free_retention_lock
SELECT pg_advisory_unlock(%(lock)s) AS freed;

-- name: retention_chunks
SELECT format('%%I.%%I', chunk_schema, chunk_name) AS name, range_start AS first, range_end AS last,
    pg_total_relation_size(format('%%I.%%I', chunk_schema, chunk_name)::regclass) AS octets
FROM timescaledb_information.chunks
WHERE hypertable_schema = 'public' AND hypertable_name = %(table)s AND range_end <= %(before)s
ORDER BY range_end;

-- name: retention_any
SELECT EXISTS (
    SELECT FROM unnest(%(tenants)s::text[]) AS wanted (tenant)
    WHERE EXISTS (
        SELECT FROM {table} AS held
        WHERE held.tenant = wanted.tenant AND held.{time} >= %(first)s AND held.{time} < %(last)s)) AS found;

-- name: retention_shares
SELECT tenant, count(*) AS rows, max(appended_at) AS newest
FROM {table}
WHERE {time} >= %(first)s AND {time} < %(last)s
GROUP BY tenant
ORDER BY tenant;

-- name: retention_patience
SELECT set_config('lock_timeout', %(hold)s, true), set_config('statement_timeout', %(look)s, true);

-- name: hold_chunk
SELECT hold_chunk(%(chunk)s::regclass);

-- name: drop_chunk
SELECT drop_chunks_between(%(table)s::regclass, %(first)s, %(last)s);

-- name: retention_count
SELECT count(*) AS rows FROM {table} WHERE tenant = %(tenant)s AND {time} < %(cutoff)s AND appended_at < %(cutoff)s;

-- name: retention_next
-- The last row of the next part of a walk, and whether there is none behind it.
SELECT time, key, number < %(limit)s AS is_last
FROM (
    SELECT time, key, row_number() OVER (ORDER BY time, key) AS number
    FROM (
        SELECT {time} AS time, {key} AS key
        FROM {table}
        WHERE tenant = %(tenant)s
            AND {time} < %(cutoff)s
            AND {time} >= coalesce(%(time)s::timestamptz, '-infinity')
            AND ({time}, {key}) > (coalesce(%(time)s::timestamptz, '-infinity'), %(key)s::text)
        ORDER BY {time}, {key}
        LIMIT %(limit)s) AS next) AS numbered
ORDER BY number DESC
LIMIT 1;

-- name: retention_remove
DELETE FROM {table}
WHERE tenant = %(tenant)s
    AND {time} <= %(last_time)s::timestamptz
    AND ({time}, {key}) <= (%(last_time)s::timestamptz, %(last_key)s::text)
    AND {time} >= coalesce(%(time)s::timestamptz, '-infinity')
    AND ({time}, {key}) > (coalesce(%(time)s::timestamptz, '-infinity'), %(key)s::text)
    AND appended_at < %(cutoff)s;

-- name: retention_row_size
-- Of a table and what inherits from it, which a hypertable's chunks do.
SELECT sum(pg_total_relation_size(oid)) / nullif(sum(greatest(reltuples, 0)), 0) AS octets
FROM pg_class
WHERE oid = %(table)s::regclass OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s::regclass);

-- name: count_old_hours
SELECT count(*) AS rows
FROM trade_hours AS hours
WHERE hours.tenant = %(tenant)s
    AND hours.hour <= %(cutoff)s::timestamptz - INTERVAL '1 hour'
    AND NOT EXISTS (
        SELECT FROM trades AS held
        WHERE held.tenant = hours.tenant
            AND held.product = hours.product
            AND held.exchange = hours.exchange
            AND held.exchange_time >= hours.hour
            AND held.exchange_time < hours.hour + INTERVAL '1 hour'
            AND held.appended_at >= %(cutoff)s);

-- name: remove_old_hours
DELETE FROM trade_hours
WHERE (tenant, exchange, product, hour) IN (
    SELECT hours.tenant, hours.exchange, hours.product, hours.hour
    FROM trade_hours AS hours
    WHERE hours.tenant = %(tenant)s
        AND hours.hour <= %(cutoff)s::timestamptz - INTERVAL '1 hour'
        AND NOT EXISTS (
            SELECT FROM trades AS held
            WHERE held.tenant = hours.tenant
                AND held.product = hours.product
                AND held.exchange = hours.exchange
                AND held.exchange_time >= hours.hour
                AND held.exchange_time < hours.hour + INTERVAL '1 hour'
                AND held.appended_at >= %(cutoff)s)
    LIMIT %(limit)s);

-- name: count_old_event_ids
SELECT tenant, count(*) AS rows FROM event_ids WHERE claimed_at < %(before)s GROUP BY tenant;

-- name: remove_old_event_ids
WITH gone AS (
    DELETE FROM event_ids
    WHERE (tenant, event_id) IN (SELECT tenant, event_id FROM event_ids WHERE claimed_at < %(before)s LIMIT %(limit)s)
    RETURNING tenant
)
SELECT tenant, count(*) AS rows FROM gone GROUP BY tenant;

-- name: chunk_growth
-- Of the chunk that rows of now go to. A table that has none is not told of.
SELECT known.hypertable_name AS table, dimension.time_interval AS span,
    pg_indexes_size(format('%%I.%%I', known.chunk_schema, known.chunk_name)::regclass)::bigint AS octets,
    now() - greatest(known.chunk_creation_time, known.range_start) AS elapsed
FROM timescaledb_information.chunks AS known
JOIN timescaledb_information.dimensions AS dimension
    ON dimension.hypertable_schema = known.hypertable_schema AND dimension.hypertable_name = known.hypertable_name
WHERE known.hypertable_schema = 'public'
    AND known.hypertable_name = ANY (%(tables)s)
    AND known.range_start <= now()
    AND known.range_end > now()
ORDER BY known.hypertable_name;

-- name: shared_buffers
SELECT setting::bigint * pg_size_bytes('8kB') AS octets FROM pg_settings WHERE name = 'shared_buffers';

-- name: set_chunk_span
SELECT set_chunk_span(%(table)s::regclass, %(span)s);

-- name: own_positions
SELECT topic, topic_id, partition, next_offset, updated_at
FROM sink_offsets
WHERE split_part(topic, '.', 2) = %(tenant)s
ORDER BY topic, topic_id, partition;

-- name: own_lost_records
SELECT topic, sum(to_offset - from_offset) AS records
FROM sink_gaps
WHERE split_part(topic, '.', 2) = %(tenant)s AND cause = 'retention'
GROUP BY topic;

-- name: newest_rows
(SELECT 'ticks' AS dataset, exchange_time AS time, appended_at FROM ticks WHERE tenant = %(tenant)s ORDER BY exchange_time DESC LIMIT 1)
UNION ALL
(SELECT 'trades', exchange_time, appended_at FROM trades WHERE tenant = %(tenant)s ORDER BY exchange_time DESC LIMIT 1)
UNION ALL
(SELECT 'events', time, appended_at FROM events WHERE tenant = %(tenant)s ORDER BY time DESC LIMIT 1)
UNION ALL
(SELECT 'stats', at, appended_at FROM stats WHERE tenant = %(tenant)s ORDER BY at DESC LIMIT 1)
UNION ALL
(SELECT 'bars', start, appended_at FROM bars WHERE tenant = %(tenant)s ORDER BY start DESC LIMIT 1)
UNION ALL
(SELECT 'alerts', at, appended_at FROM alerts WHERE tenant = %(tenant)s ORDER BY at DESC LIMIT 1);

-- name: append_audit
SELECT append_audit(%(action)s, %(actor)s, %(target)s, %(content)s::text::jsonb);

-- name: search_audit
SELECT tenant, seq, at, action, actor, target, entry, hash FROM audit
WHERE tenant = %(tenant)s {filters}
ORDER BY seq DESC LIMIT %(limit)s;

-- name: filter_audit_action
AND action = %(action)s

-- name: filter_audit_actor
AND actor = %(actor)s

-- name: filter_audit_target
AND target = %(target)s

-- name: filter_audit_from
-- Times rise with the numbers, so a time is a number.
AND seq >= coalesce(
    (SELECT seq FROM audit WHERE tenant = %(tenant)s AND at >= %(from)s ORDER BY at, seq LIMIT 1), 9223372036854775807)

-- name: filter_audit_to
AND seq < coalesce(
    (SELECT seq FROM audit WHERE tenant = %(tenant)s AND at >= %(to)s ORDER BY at, seq LIMIT 1), 9223372036854775807)

-- name: filter_audit_behind
AND seq < %(behind)s

-- name: read_audit_chain
-- Also what stands before the first row, where a chain is read from its beginning.
SELECT tenant, seq, at, action, actor, target, entry, hash FROM audit
WHERE tenant = %(tenant)s AND (%(after)s = 0 OR seq > %(after)s) AND seq <= %(to)s
ORDER BY seq LIMIT %(limit)s;

-- name: read_audit_head
-- Both as of one moment.
SELECT coalesce(head.seq, 0) AS seq, head.hash, coalesce(held.last, 0) AS last
FROM (SELECT max(seq) AS last FROM audit WHERE tenant = %(tenant)s) AS held
LEFT JOIN audit_heads AS head ON head.tenant = %(tenant)s;

-- name: list_audit_heads
SELECT tenant, seq, encode(hash, 'hex') AS hash FROM audit_heads WHERE seq > 0 ORDER BY tenant;

-- name: audit_hashes_at
SELECT named.tenant, encode(held.hash, 'hex') AS hash
FROM unnest(%(tenants)s::text[], %(seqs)s::bigint[]) AS named (tenant, seq)
LEFT JOIN audit AS held ON held.tenant = named.tenant AND held.seq = named.seq;

-- name: use_live_ticket
INSERT INTO live_tickets (tenant, nonce, expires_at) VALUES (%(tenant)s, %(nonce)s, %(expires_at)s)
ON CONFLICT (tenant, nonce) DO NOTHING;

-- name: forget_live_tickets
-- The clocks of two machines may differ by less than that.
DELETE FROM live_tickets WHERE tenant = %(tenant)s AND expires_at < now() - INTERVAL '1 hour';

-- name: live_ticks
-- The newest tick of a day of each subscribed product.
SELECT newest.*
FROM subscriptions AS own
CROSS JOIN LATERAL (
    SELECT held.*
    FROM ticks AS held
    WHERE held.tenant = own.tenant
        AND held.product = own.product
        AND held.exchange = own.exchange
        AND held.exchange_time > now() - INTERVAL '1 day'
    ORDER BY held.exchange_time DESC
    LIMIT 1) AS newest
WHERE own.tenant = %(tenant)s;

-- name: live_stats
-- The newest statistic of a day of each subscribed product and window.
SELECT newest.*
FROM subscriptions AS own
CROSS JOIN unnest(%(windows)s::text[]) AS wanted ("window")
CROSS JOIN LATERAL (
    SELECT held.*
    FROM stats AS held
    WHERE held.tenant = own.tenant
        AND held.product = own.product
        AND held."window" = wanted."window"
        AND held.exchange = own.exchange
        AND held.at > now() - INTERVAL '1 day'
    ORDER BY held.at DESC
    LIMIT 1) AS newest
WHERE own.tenant = %(tenant)s;

-- name: live_alerts
SELECT * FROM alerts WHERE tenant = %(tenant)s ORDER BY at DESC, alert_id DESC LIMIT %(limit)s;

-- name: live_repeats
-- Of alerts that were read from their topic those that it held before: the row is of an earlier record.
SELECT wanted.place
FROM unnest(%(places)s::integer[], %(ids)s::text[], %(ats)s::timestamptz[], %(appended)s::timestamptz[])
    AS wanted (place, alert_id, at, appended_at)
JOIN alerts AS held
    ON held.tenant = %(tenant)s AND held.at = wanted.at AND held.alert_id = wanted.alert_id
WHERE held.appended_at < wanted.appended_at;

-- name: begin_reading_audit
-- Rows and head of a chain as of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: list_audit_tenants
SELECT tenant FROM audit_heads UNION SELECT tenant FROM audit ORDER BY tenant;

-- name: read_whole_audit_chain
SELECT tenant, seq, at, action, actor, target, entry, hash FROM audit WHERE tenant = %(tenant)s ORDER BY seq;

-- name: insert_channel
INSERT INTO channels (tenant, id, name, kind, target, secret, matchers, group_by, group_wait, group_interval,
    repeat_interval, send_resolved, created_by)
VALUES (%(tenant)s, %(id)s, %(name)s, %(kind)s, %(target)s, %(secret)s, %(matchers)s, %(group_by)s::text[],
    %(group_wait)s, %(group_interval)s, %(repeat_interval)s, %(send_resolved)s, %(created_by)s)
RETURNING id, name, kind, target, matchers, group_by, group_wait, group_interval, repeat_interval, send_resolved,
    enabled, disabled_reason, failing_since, created_by, created_at;

-- name: change_channel
UPDATE channels SET name = %(name)s, target = %(target)s, matchers = %(matchers)s, group_by = %(group_by)s::text[],
    group_wait = %(group_wait)s, group_interval = %(group_interval)s, repeat_interval = %(repeat_interval)s,
    send_resolved = %(send_resolved)s, enabled = %(enabled)s, disabled_reason = %(disabled_reason)s,
    failing_since = %(failing_since)s
WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: change_channel_secret
UPDATE channels SET secret = %(secret)s WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: find_channel
SELECT id, name, kind, target, matchers, group_by, group_wait, group_interval, repeat_interval, send_resolved,
    enabled, disabled_reason, failing_since, created_by, created_at
FROM channels WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: lock_channel
SELECT FROM channels WHERE tenant = %(tenant)s AND id = %(id)s FOR NO KEY UPDATE;

-- name: list_channels
SELECT id, name, kind, target, matchers, group_by, group_wait, group_interval, repeat_interval, send_resolved,
    enabled, disabled_reason, failing_since, created_by, created_at
FROM channels WHERE tenant = %(tenant)s ORDER BY created_at, id;

-- name: delete_channel
DELETE FROM channels WHERE tenant = %(tenant)s AND id = %(id)s;

-- name: give_up_messages
UPDATE notifications SET state = 'failed', detail = %(detail)s, settled_at = now()
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND state = 'waiting';

-- name: insert_channel_message
INSERT INTO notifications (tenant, id, channel_id, type, document)
VALUES (%(tenant)s, %(id)s, %(channel)s, %(type)s, %(document)s);

-- name: list_attempts
SELECT a.message_id, n.type, a.number, a.at, a.seconds, a.outcome, a.status, a.error, a.response
FROM notification_attempts AS a
JOIN notifications AS n ON (n.tenant, n.id) = (a.tenant, a.message_id)
WHERE a.tenant = %(tenant)s AND a.channel_id = %(channel)s
    AND (%(message_id)s::text IS NULL OR a.message_id = %(message_id)s)
    AND (%(outcome)s::text IS NULL OR a.outcome = %(outcome)s)
    AND (%(time)s::timestamptz IS NULL
        OR (a.at, a.message_id, a.number) < (%(time)s, %(message)s::text, %(number)s::integer))
ORDER BY a.at DESC, a.message_id DESC, a.number DESC LIMIT %(limit)s;

-- name: current_alerts
-- The newest alert of each rule for one product, found by stepping over the older ones; behind a rule and product.
WITH RECURSIVE newest AS (
    (SELECT * FROM alerts
     WHERE tenant = %(tenant)s
         AND (rule_id, exchange, product) > (%(after_rule)s, %(after_exchange)s, %(after_product)s)
         AND rule_id <= coalesce(%(rule_id)s, (SELECT max(rule_id) FROM alerts WHERE tenant = %(tenant)s))
     ORDER BY rule_id, exchange, product, rule_version DESC, seq DESC LIMIT 1)
    UNION ALL
    SELECT following.* FROM newest CROSS JOIN LATERAL (
        SELECT * FROM alerts
        WHERE tenant = %(tenant)s
            AND (rule_id, exchange, product) > (newest.rule_id, newest.exchange, newest.product)
            AND rule_id <= coalesce(%(rule_id)s, (SELECT max(rule_id) FROM alerts WHERE tenant = %(tenant)s))
        ORDER BY rule_id, exchange, product, rule_version DESC, seq DESC LIMIT 1) AS following
)
SELECT newest.alert_id, newest.seq, newest.rule_id, newest.rule_name, newest.rule_version, newest.exchange,
    newest.product, newest.state, newest.at, newest.value, newest.threshold, newest.reason, newest.severity,
    newest.labels, newest."window",
    mute_reason(newest.tenant, newest.rule_id, newest.exchange, newest.product, newest.severity, newest.labels,
                %(now)s, newest.rule_version, newest.seq) AS muted,
    acknowledged_version, acknowledged_seq, acknowledged_at, acknowledged_by, acknowledged_comment,
    snoozed_until, snoozed_at, snoozed_by, snoozed_comment
FROM newest LEFT JOIN alert_marks USING (tenant, rule_id, exchange, product)
WHERE newest.state = ANY (%(states)s)
    AND (%(exchange)s::text IS NULL OR newest.exchange = %(exchange)s)
    AND (%(product)s::text IS NULL OR newest.product = %(product)s)
    AND (%(matchers)s::text IS NULL OR matchers_hold(
        %(matchers)s::jsonb,
        jsonb_build_object(
            'rule_id', newest.rule_id, 'exchange', newest.exchange, 'product', newest.product,
            'severity', newest.severity, 'rule_name', (
                SELECT name FROM rules WHERE rules.tenant = newest.tenant AND rules.rule_id = newest.rule_id
                ORDER BY version DESC LIMIT 1)),
        newest.labels))
LIMIT %(limit)s;

-- name: find_mark
SELECT acknowledged_version, acknowledged_seq, acknowledged_at, acknowledged_by, acknowledged_comment,
    snoozed_until, snoozed_at, snoozed_by, snoozed_comment
FROM alert_marks
WHERE tenant = %(tenant)s AND rule_id = %(rule_id)s AND exchange = %(exchange)s AND product = %(product)s;

-- name: put_mark
INSERT INTO alert_marks (
    tenant, rule_id, exchange, product,
    acknowledged_version, acknowledged_seq, acknowledged_at, acknowledged_by, acknowledged_comment,
    snoozed_until, snoozed_at, snoozed_by, snoozed_comment)
VALUES (
    %(tenant)s, %(rule_id)s, %(exchange)s, %(product)s,
    %(acknowledged_version)s, %(acknowledged_seq)s, %(acknowledged_at)s, %(acknowledged_by)s, %(acknowledged_comment)s,
    %(snoozed_until)s, %(snoozed_at)s, %(snoozed_by)s, %(snoozed_comment)s)
ON CONFLICT (tenant, rule_id, exchange, product) DO UPDATE SET
    acknowledged_version = excluded.acknowledged_version, acknowledged_seq = excluded.acknowledged_seq,
    acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by,
    acknowledged_comment = excluded.acknowledged_comment, snoozed_until = excluded.snoozed_until,
    snoozed_at = excluded.snoozed_at, snoozed_by = excluded.snoozed_by, snoozed_comment = excluded.snoozed_comment;

-- name: list_silences
SELECT * FROM (
    SELECT silence_id, matchers, starts_at, ends_at, weekdays, from_time, minutes, time_zone, comment, created_at,
        created_by, expired_at, expired_by,
        CASE WHEN coalesce(expired_at, ends_at, 'infinity') <= %(now)s THEN 'expired'
             WHEN silence_holds(held, %(now)s) THEN 'active' ELSE 'pending' END AS state
    FROM silences AS held
    WHERE tenant = %(tenant)s AND (%(silence_id)s::text IS NULL OR silence_id = %(silence_id)s)
        AND (%(below)s::text IS NULL OR silence_id < %(below)s)) AS told
WHERE %(state)s::text IS NULL OR state = %(state)s
ORDER BY silence_id DESC LIMIT %(limit)s;

-- name: count_silences
SELECT count(*) AS silences FROM silences
WHERE tenant = %(tenant)s AND coalesce(expired_at, ends_at, 'infinity') > %(now)s;

-- name: prune_silences
DELETE FROM silences WHERE tenant = %(tenant)s AND coalesce(expired_at, ends_at, 'infinity') < %(before)s;

-- name: knows_time_zone
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = %(name)s) AS known;

-- name: insert_silence
INSERT INTO silences (tenant, silence_id, matchers, starts_at, ends_at, weekdays, from_time, minutes, time_zone,
                      comment, created_at, created_by)
VALUES (%(tenant)s, %(silence_id)s, %(matchers)s::text::jsonb, %(starts_at)s, %(ends_at)s, %(weekdays)s::smallint[],
        %(from_time)s::time, %(minutes)s, %(time_zone)s, %(comment)s, %(now)s, %(created_by)s);

-- name: expire_silence
UPDATE silences SET expired_at = %(now)s, expired_by = %(expired_by)s
WHERE tenant = %(tenant)s AND silence_id = %(silence_id)s AND coalesce(expired_at, ends_at, 'infinity') > %(now)s;

-- name: resend_messages
-- One message, whatever became of it, or those that failed since a time: from the first attempt on, with the same bytes.
WITH chosen AS (
    SELECT tenant, id FROM notifications
    WHERE tenant = %(tenant)s AND channel_id = %(channel)s
        AND CASE WHEN %(message_id)s::text IS NULL THEN state = 'failed' AND settled_at >= %(since)s
            ELSE id = %(message_id)s AND state <> 'waiting' END
    ORDER BY id
    LIMIT %(limit)s
    FOR NO KEY UPDATE
)
UPDATE notifications AS held
SET state = 'waiting', detail = NULL, step = 0, next_at = now(), settled_at = NULL
FROM chosen
WHERE (held.tenant, held.id) = (chosen.tenant, chosen.id);

-- name: find_message
SELECT FROM notifications WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND id = %(message_id)s;

-- name: list_messages
SELECT id, type, state, detail, attempts, created_at, CASE WHEN state = 'waiting' THEN next_at END AS next_at,
    settled_at, document
FROM notifications
WHERE tenant = %(tenant)s AND channel_id = %(channel)s
    AND (%(state)s::text IS NULL OR state = %(state)s)
    AND (%(time)s::timestamptz IS NULL OR (created_at, id) < (%(time)s, %(id)s::text))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;
