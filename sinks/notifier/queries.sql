-- The notifier's statements, by name; every value is bound. Rows are locked in this order: channels, messages, alerts by
-- their keys, groups by theirs.

-- name: session
SELECT set_config('TimeZone', 'UTC', false), set_config('lock_timeout', '10s', false),
    set_config('idle_in_transaction_session_timeout', '60s', false);

-- name: begin
INSERT INTO notifier_beginning DEFAULT VALUES ON CONFLICT (single) DO NOTHING;

-- name: beginning
SELECT at FROM notifier_beginning;

-- name: put_positions
INSERT INTO notifier_offsets (topic_id, partition, topic, next_offset)
SELECT * FROM unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(topics)s::text[], %(next_offsets)s::bigint[])
ON CONFLICT (topic_id, partition) DO NOTHING;

-- name: read_positions
SELECT held.topic_id, held.partition, held.next_offset
FROM notifier_offsets AS held
JOIN unnest(%(topic_ids)s::text[], %(partitions)s::integer[]) AS wanted (topic_id, partition)
    USING (topic_id, partition);

-- name: move_positions
UPDATE notifier_offsets AS held
SET next_offset = wanted.next_offset, updated_at = now()
FROM unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(expected)s::bigint[], %(next_offsets)s::bigint[])
    AS wanted (topic_id, partition, expected, next_offset)
WHERE held.topic_id = wanted.topic_id
    AND held.partition = wanted.partition
    AND held.next_offset = wanted.expected;

-- name: lock_routes
-- Held until the transaction ends, so that no channel goes while something is written about it.
SELECT c.tenant, c.id, c.enabled AND t.status = 'active' AS enabled, c.matchers, c.group_by, c.group_wait,
    c.group_interval
FROM channels AS c JOIN tenants AS t USING (tenant)
WHERE c.tenant = ANY (%(tenants)s)
ORDER BY c.tenant, c.id
FOR KEY SHARE OF c;

-- name: read_heads
SELECT held.tenant, held.rule_id, held.rule_version, held.exchange, held.product, held.seq
FROM notification_heads AS held
JOIN unnest(%(tenants)s::text[], %(rules)s::text[], %(versions)s::integer[], %(exchanges)s::text[], %(products)s::text[])
    AS wanted (tenant, rule_id, rule_version, exchange, product)
    USING (tenant, rule_id, rule_version, exchange, product);

-- name: move_heads
INSERT INTO notification_heads AS held (tenant, rule_id, rule_version, exchange, product, seq)
SELECT * FROM unnest(%(tenants)s::text[], %(rules)s::text[], %(versions)s::integer[], %(exchanges)s::text[],
                     %(products)s::text[], %(seqs)s::bigint[])
    AS moved (tenant, rule_id, rule_version, exchange, product, seq)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (tenant, rule_id, rule_version, exchange, product) DO UPDATE SET seq = EXCLUDED.seq, at = now();

-- name: fire
INSERT INTO notification_alerts AS held
    (tenant, channel_id, alert_key, group_key, episode, state, seq, shown, firings)
VALUES (%(tenant)s, %(channel)s, %(key)s, %(group)s, %(episode)s, 'firing', %(seq)s, %(shown)s, 1)
ON CONFLICT (tenant, channel_id, alert_key) DO UPDATE
SET group_key = EXCLUDED.group_key, episode = EXCLUDED.episode, state = 'firing', seq = EXCLUDED.seq,
    shown = EXCLUDED.shown, firings = held.firings + 1;

-- name: end
UPDATE notification_alerts
SET state = 'resolved', seq = %(seq)s, shown = shown || %(ended)s
WHERE tenant = %(tenant)s AND channel_id = ANY (%(channels)s) AND alert_key = %(key)s AND state = 'firing'
RETURNING channel_id, group_key;

-- name: touch_group
-- There is news: the first message waits for the group to gather, a further one until the interval has passed.
INSERT INTO notification_groups AS held (tenant, channel_id, group_key, labels, flush_at)
VALUES (%(tenant)s, %(channel)s, %(group)s, %(labels)s, now() + %(wait)s * INTERVAL '1 second')
ON CONFLICT (tenant, channel_id, group_key) DO UPDATE
SET flush_at = CASE
    WHEN held.flushed_at IS NULL THEN held.flush_at
    ELSE least(held.flush_at, greatest(now(), held.flushed_at + %(interval)s * INTERVAL '1 second')) END;

-- name: lock_due_groups
SELECT g.tenant, g.channel_id, c.name AS channel_name, g.group_key, g.labels, g.told_at, g.last_message,
    c.group_interval, c.repeat_interval, c.send_resolved, c.enabled AND t.status = 'active' AS enabled, now() AS now
FROM notification_groups AS g
JOIN channels AS c ON (c.tenant, c.id) = (g.tenant, g.channel_id)
JOIN tenants AS t ON t.tenant = g.tenant
WHERE g.flush_at <= now()
ORDER BY g.flush_at
LIMIT %(limit)s
FOR NO KEY UPDATE OF g SKIP LOCKED
FOR KEY SHARE OF c SKIP LOCKED;

-- name: read_alerts
SELECT alert_key, episode, state, shown, firings, told_episode, told_state,
    notification_muted(tenant, shown ->> 'rule_id', shown ->> 'exchange', shown ->> 'product', shown ->> 'severity',
        shown -> 'labels', now(), (shown ->> 'rule_version')::bigint, seq) AS muted
FROM notification_alerts
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s
ORDER BY alert_key;

-- name: supersede
-- The message that a newer one takes the place of: its news are in that one.
UPDATE notifications
SET state = 'superseded', settled_at = now(), leased_until = NULL,
    detail = 'a newer message tells of the same alerts'
WHERE tenant = %(tenant)s AND id = %(id)s AND state = 'waiting' AND coalesce(leased_until <= now(), true);

-- name: is_waiting
SELECT FROM notifications WHERE tenant = %(tenant)s AND id = %(id)s AND state = 'waiting';

-- name: insert_message
INSERT INTO notifications (tenant, id, channel_id, group_key, type, document, told)
VALUES (%(tenant)s, %(id)s, %(channel)s, %(group)s, %(type)s, %(document)s, %(told)s);

-- name: flushed
UPDATE notification_groups SET flush_at = %(flush_at)s, flushed_at = now(), last_message = %(message)s
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s;

-- name: postpone
UPDATE notification_groups SET flush_at = %(flush_at)s
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s;

-- name: forget_alerts
DELETE FROM notification_alerts
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM notification_alerts
    WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND alert_key = ANY (%(keys)s) AND group_key = %(group)s
        AND state = 'resolved'
    FOR UPDATE SKIP LOCKED));

-- name: drop_empty_group
-- With news on its way the group is due, and stays.
DELETE FROM notification_groups AS g
WHERE g.tenant = %(tenant)s AND g.channel_id = %(channel)s AND g.group_key = %(group)s AND g.flush_at IS NULL
    AND NOT EXISTS (
        SELECT FROM notification_alerts AS a
        WHERE (a.tenant, a.channel_id, a.group_key) = (g.tenant, g.channel_id, g.group_key));

-- name: claim
-- Messages that are due, but no more of a channel or a tenant than may be on their way at once. A message of a process
-- that was killed is due again when its lease is over.
WITH due AS (
    SELECT n.tenant, n.id, n.next_at,
        row_number() OVER (PARTITION BY n.tenant, n.channel_id ORDER BY n.next_at, n.id) + coalesce(c.held, 0) AS place
    FROM notifications AS n
    LEFT JOIN unnest(%(channels)s::text[], %(channels_held)s::bigint[]) AS c (id, held) ON c.id = n.channel_id
    WHERE n.state = 'waiting' AND n.next_at <= now() AND coalesce(n.leased_until <= now(), true)
        AND n.id <> ALL (%(under_way)s)
), admitted AS (
    SELECT due.tenant, due.id,
        row_number() OVER (PARTITION BY due.tenant ORDER BY due.place, due.next_at, due.id) + coalesce(t.held, 0)
            AS place
    FROM due
    LEFT JOIN unnest(%(tenants)s::text[], %(tenants_held)s::bigint[]) AS t (tenant, held) ON t.tenant = due.tenant
    WHERE due.place <= %(per_channel)s
), chosen AS (
    SELECT n.tenant, n.id
    FROM notifications AS n JOIN admitted USING (tenant, id)
    WHERE admitted.place <= %(per_tenant)s
        AND n.state = 'waiting' AND n.next_at <= now() AND coalesce(n.leased_until <= now(), true)
    ORDER BY admitted.place, n.next_at, n.id
    LIMIT %(room)s
    FOR UPDATE OF n SKIP LOCKED
)
UPDATE notifications AS n
SET leased_until = now() + %(lease)s * INTERVAL '1 second', attempts = n.attempts + 1
FROM chosen, channels AS c
WHERE (n.tenant, n.id) = (chosen.tenant, chosen.id) AND (c.tenant, c.id) = (n.tenant, n.channel_id)
RETURNING n.tenant, n.id, n.channel_id, n.group_key, n.type, n.document, n.told, n.attempts, n.step, n.next_at,
    c.kind, c.name AS channel_name, c.target, c.secret, c.send_resolved, c.repeat_interval,
    c.group_interval, c.enabled;
-- name: lock_channel
-- Before its messages and groups, as everybody who changes or deletes a channel does: none waits for the other.
SELECT FROM channels WHERE tenant = %(tenant)s AND id = %(channel)s FOR NO KEY UPDATE;

-- name: muted
-- Why nobody is to be told now of anything that a message tells of; null: of something somebody is.
SELECT min(reason) AS reason
FROM (
    SELECT notification_muted(tenant, shown ->> 'rule_id', shown ->> 'exchange', shown ->> 'product',
        shown ->> 'severity', shown -> 'labels', now(), (shown ->> 'rule_version')::bigint, seq) AS reason
    FROM notification_alerts
    WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND alert_key = ANY (%(keys)s)) AS found
HAVING count(*) > 0 AND count(*) = count(reason);

-- name: settle
-- What became of an attempt. A message that was superseded or deleted meanwhile stays as it is.
UPDATE notifications
SET state = %(state)s, detail = %(detail)s, step = %(step)s, leased_until = NULL,
    next_at = now() + %(wait)s * INTERVAL '1 second',
    settled_at = CASE WHEN %(state)s = 'waiting' THEN NULL ELSE now() END
WHERE tenant = %(tenant)s AND id = %(id)s AND state = 'waiting';

-- name: record_attempt
INSERT INTO notification_attempts
    (tenant, message_id, number, channel_id, at, seconds, outcome, status, error, response)
SELECT n.tenant, n.id, %(number)s, n.channel_id, now() - %(seconds)s * INTERVAL '1 second', %(seconds)s, %(outcome)s,
    %(status)s, %(error)s, %(response)s
FROM notifications AS n
WHERE n.tenant = %(tenant)s AND n.id = %(id)s
FOR KEY SHARE OF n -- or it could be pruned before the row that refers to it is there
ON CONFLICT DO NOTHING;

-- name: lock_alerts
SELECT FROM notification_alerts
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND alert_key = ANY (%(keys)s)
ORDER BY alert_key
FOR NO KEY UPDATE;

-- name: is_newest
SELECT FROM notification_groups
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s AND last_message = %(id)s;

-- name: tell_alerts
UPDATE notification_alerts AS held
SET told_episode = told.episode, told_state = told.state, firings = greatest(held.firings - told.firings, 0)
FROM unnest(%(keys)s::text[], %(episodes)s::text[], %(states)s::text[], %(firings)s::integer[])
    AS told (key, episode, state, firings)
WHERE held.tenant = %(tenant)s AND held.channel_id = %(channel)s AND held.alert_key = told.key;

-- name: forget_told
DELETE FROM notification_alerts
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND alert_key = ANY (%(keys)s) AND state = 'resolved'
    AND told_episode = episode AND (told_state = 'resolved' OR NOT %(send_resolved)s);

-- name: told_group
UPDATE notification_groups AS g
SET told_at = now(), flush_at = CASE
    WHEN EXISTS (
        SELECT FROM notification_alerts AS a
        WHERE (a.tenant, a.channel_id, a.group_key) = (g.tenant, g.channel_id, g.group_key) AND a.state = 'firing')
    THEN least(g.flush_at, now() + %(repeat)s * INTERVAL '1 second')
    ELSE g.flush_at END
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s;

-- name: retry_group
-- A message was given up: what it told of is said again after the repeat interval, if not before.
UPDATE notification_groups SET flush_at = least(flush_at, now() + %(repeat)s * INTERVAL '1 second')
WHERE tenant = %(tenant)s AND channel_id = %(channel)s AND group_key = %(group)s AND last_message = %(id)s;

-- name: note_success
UPDATE channels SET failing_since = NULL
WHERE tenant = %(tenant)s AND id = %(channel)s AND failing_since IS NOT NULL;

-- name: note_failure
UPDATE channels SET failing_since = coalesce(failing_since, now()) WHERE tenant = %(tenant)s AND id = %(channel)s
RETURNING failing_since < now() - %(days)s * INTERVAL '1 day' AS is_over;

-- name: disable_channel
SELECT disable_channel(%(tenant)s, %(channel)s, %(reason)s) AS disabled;

-- name: other_channels
SELECT id, name FROM channels WHERE tenant = %(tenant)s AND id <> %(channel)s AND enabled ORDER BY id FOR KEY SHARE;

-- name: waiting
SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float AS oldest
FROM (SELECT created_at FROM notifications WHERE state = 'waiting' LIMIT 10000) AS held;

-- name: prune_messages
DELETE FROM notifications
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM notifications WHERE settled_at < now() - %(days)s * INTERVAL '1 day' LIMIT %(limit)s));

-- name: prune_heads
DELETE FROM notification_heads
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM notification_heads WHERE at < now() - %(days)s * INTERVAL '1 day' LIMIT %(limit)s));
