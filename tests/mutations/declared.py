"""The guards of the product, and for each the change that disables it and the tests that must see that.

A change replaces a piece of text, which must stand in its file exactly once, by another.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutation:
    """A guard, by `name`, and how it is disabled: in `file`, `old` becomes `new`; one of `tests` has to fail then."""

    name: str
    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_AUDIT: Final = "tests/integration/test_audit_rows.py::"
_AUDIT_CHAIN: Final = "tests/unit/test_audit_chain.py::"
_AUDIT_HEADS: Final = "tests/unit/test_audit_heads.py::"
_REPORTS: Final = "tests/unit/test_reports.py::"
_CRASHES: Final = "tests/faults/test_sink_crashes.py::"
_DEGRADES: Final = "tests/faults/test_sink_degrades.py::"
_POSITIONS: Final = "tests/integration/test_sink_positions.py::"
_STORES: Final = "tests/integration/test_sink_stores.py::"
_RECORDS: Final = "tests/faults/test_ledger_records.py::"
_AUTH: Final = "tests/unit/test_api_auth.py::"
_ROLES: Final = "tests/integration/test_sink_roles.py::"
_KEYS: Final = "tests/integration/test_api_keys.py::"
_IDEMPOTENCY: Final = "tests/integration/test_api_idempotency.py::"
_INGESTION: Final = "tests/integration/test_api_ingestion.py::"
_USAGE: Final = "tests/integration/test_api_usage.py::"
_RUNNING_LIMITS: Final = "tests/integration/test_api_limits.py::"
_LIMITS: Final = "tests/unit/test_limits.py::"
_LOGINS: Final = "tests/integration/test_kafka_credentials_relay.py::"
_BUCKETS: Final = "tests/unit/test_limits_bucket.py::"
_LIVE: Final = "tests/integration/test_live.py::"
_LIVE_SESSION: Final = "tests/unit/test_live_session.py::"
_LANE: Final = "tests/unit/test_stream_lane.py::"
_OUTAGE: Final = "tests/integration/test_producer_outage.py::"
_OUTBOX: Final = "tests/integration/test_relay_outbox.py::"
_STATE: Final = "tests/integration/test_stream_rebuild.py::"
_NOTIFIER: Final = "tests/integration/test_notifier.py::"
_ROUTES: Final = "tests/integration/test_api_routes.py::"

MUTATIONS: Final = (
    Mutation(
        "offset-fence",
        "a position moves only from the value that its sink expects",
        "sinks/queries.sql",
        "    AND held.partition = wanted.partition\n    AND held.next_offset = wanted.expected;",
        "    AND held.partition = wanted.partition;",
        (_CRASHES + "test_a_sink_that_sleeps_with_a_batch_in_hand_is_fenced_and_writes_none_of_it",),
    ),
    Mutation(
        "one-transaction",
        "rows and positions are committed together",
        "sinks/database.py",
        "            self._move(batch.moves)\n            written",
        "            self._move(batch.moves)\n"
        "        with self._holding([move.place for move in batch.moves]):\n            written",
        (
            "tests/faults/test_sink_broker.py::test_nothing_of_a_batch_is_stored_before_its_dead_letters_are_acknowledged",
        ),
    ),
    Mutation(
        "dead-letter-acknowledged",
        "a dead letter is acknowledged before its record's position moves",
        "sinks/dead_letters.py",
        "        if self._producer.flush(DELIVERY_TIMEOUT):",
        "        if self._producer.poll(0) < 0:",
        (
            "tests/faults/test_sink_broker.py::test_nothing_of_a_batch_is_stored_before_its_dead_letters_are_acknowledged",
        ),
    ),
    Mutation(
        "event-ids",
        "an event's id is claimed before its row is written",
        "sinks/database.py",
        "        fresh = self._claim(events.first)",
        "        fresh = self._claim(events.first) | set(events.first)",
        (_STORES + "test_a_retried_event_is_one_row_though_the_edge_gave_it_another_time",),
    ),
    Mutation(
        "id-conflict",
        "another body under a stored id is a dead letter",
        "sinks/database.py",
        "for key, (row, body) in known.items() if bodies[key] != body)",
        "for key, (row, body) in known.items() if bodies[key] is None)",
        (_STORES + "test_another_body_under_a_stored_id_is_a_dead_letter",),
    ),
    Mutation(
        "unique-key-of-ticks",
        "a tick's id is unique in its table",
        "schemas/sql/0003_data.sql",
        "    appended_at   timestamptz NOT NULL,\n    PRIMARY KEY (tenant, exchange_time, event_id)\n",
        "    appended_at   timestamptz NOT NULL\n",
        (
            _STORES + "test_a_record_stored_before_is_left_out_at_another_offset",
            _RECORDS + "test_what_comes_twice_and_in_any_order_is_stored_once",
        ),
    ),
    Mutation(
        "known-ids-left-out",
        "rows whose ids are stored already are left out, and the others are stored",
        "sinks/database.py",
        "        except psycopg.errors.UniqueViolation:\n            return self._insert_new(table, rows)",
        "        except psycopg.errors.UniqueViolation:\n            return Written(0)",
        (_STORES + "test_many_ticks_of_which_some_are_stored_are_one_row_each",),
    ),
    Mutation(
        "newest-statistic",
        "the statistic with the greatest as_of stands",
        "sinks/queries.sql",
        '\nWHERE (held.as_of_topic COLLATE "C", held.as_of_partition, held.as_of_offset)\n'
        '    < (EXCLUDED.as_of_topic COLLATE "C", EXCLUDED.as_of_partition, EXCLUDED.as_of_offset);',
        ";",
        (_STORES + "test_the_statistic_with_the_greatest_as_of_wins_in_whatever_order_it_comes",),
    ),
    Mutation(
        "bisect",
        "what the database refuses is halved down to the culprit, and its neighbours are stored",
        "sinks/database.py",
        "            if len(rows) == 1:\n                return Written(0, (_refusal(rows[0], error),))",
        "            return Written(0, tuple(_refusal(row, error) for row in rows))",
        (_STORES + "test_what_only_the_database_refuses_is_bisected_to_the_record",),
    ),
    Mutation(
        "data-and-outages",
        "a full disk is an outage, waited for in the group",
        "sinks/database.py",
        '_AWAY: Final = frozenset({"08", "40", "53", "55", "57", "58"})',
        '_AWAY: Final = frozenset({"08", "40", "55", "57", "58"})',
        (_DEGRADES + "test_a_disk_that_is_full_is_waited_for_and_what_came_meanwhile_is_stored_once",),
    ),
    Mutation(
        "pause-on-error",
        "after an outage records are read again from the database's positions",
        "sinks/writer.py",
        "        self._source.misplace()  # a rebalance while resting placed partitions,"
        " whose records resting threw away\n",
        "",
        (_POSITIONS + "test_what_a_resting_sink_threw_away_is_read_again",),
    ),
    Mutation(
        "stay-in-the-group",
        "a sink that waits for the database polls meanwhile",
        "sinks/writer.py",
        "                dropped |= self._source.rest(IDLE)",
        "                wait([doing], IDLE)",
        (_DEGRADES + "test_a_database_that_is_silent_for_longer_than_a_poll_may_last_does_not_cost_the_group",),
    ),
    Mutation(
        "partitions-given-up",
        "partitions are given up when what is on its way has ended",
        "sinks/source.py",
        "        if held:\n            self._finish()\n",
        "",
        (_POSITIONS + "test_partitions_are_given_up_only_when_what_is_on_its_way_has_ended",),
    ),
    Mutation(
        "evict-zombie",
        "a sink that was stopped inside its transaction is ended by its successor",
        "sinks/database.py",
        '                self._connection.execute(_query("evict_holders"), _columns_of([*places]))\n',
        "",
        (_CRASHES + "test_a_zombie_that_wakes_after_another_sink_took_over_stores_nothing",),
    ),
    Mutation(
        "life-of-a-topic",
        "positions belong to one life of a topic",
        "sinks/source.py",
        "            if where[0] not in known or known[where[0]].topic_id != position.place.topic_id\n",
        "            if where[0] not in known\n",
        (
            _POSITIONS + "test_a_topic_made_again_starts_at_its_beginning",
            _RECORDS + "test_a_topic_deleted_and_made_again_keeps_what_was_stored_and_takes_what_comes",
        ),
    ),
    Mutation(
        "gap-told",
        "what retention took before it was read is told of",
        "sinks/database.py",
        '            self._connection.execute(_query("record_gap"), bound)\n',
        "",
        (_RECORDS + "test_what_retention_takes_is_told_of_and_nothing_else_is_missing",),
    ),
    Mutation(
        "202-after-the-report",
        "202 says that the broker has the record",
        "api/ingestion/service.py",
        "        if deliveries.delivered == len(events):",
        "        if sent == len(events):",
        ("tests/unit/test_api_publish.py::test_only_what_the_broker_confirmed_is_accepted",),
    ),
    Mutation(
        "idempotency-key",
        "the same key gives events without ids the same ids",
        "api/ingestion/idempotency.py",
        "return derived_ids(tenant, key, to_micros(used_at))",
        'return derived_ids(tenant, key + __import__("secrets").token_hex(8), to_micros(used_at))',
        (_IDEMPOTENCY + "test_an_event_without_an_id_sent_twice_with_a_key_is_one_row",),
    ),
    Mutation(
        "idempotency-fingerprint",
        "a key belongs to one request",
        "api/ingestion/idempotency.py",
        '        if bytes(row["fingerprint"]) != fingerprint:',
        '        if bytes(row["fingerprint"]) is fingerprint:',
        (_IDEMPOTENCY + "test_a_key_with_another_body_or_route_is_422_and_does_nothing",),
    ),
    Mutation(
        "queue-bound",
        "the queue to the broker is bounded, and what does not fit is refused",
        "api/ingestion/publisher.py",
        '                "queue.buffering.max.messages": QUEUE_RECORDS,',
        '                "queue.buffering.max.messages": 10_000_000,',
        (_INGESTION + "test_more_than_the_queue_holds_is_refused_at_once",),
    ),
    Mutation(
        "admission",
        "bodies under way are bounded",
        "api/admission.py",
        "        if self.bytes + size > self._max_bytes:",
        "        if self.bytes + size < 0:",
        ("tests/unit/test_api_admission.py",),
    ),
    Mutation(
        "outbox-marked-after-the-report",
        "the relay marks a control record after the broker's report",
        "api/outbox_publisher.py",
        "            if report.error is not None or report.appended_at is None:",
        "            if report.error is not None and report.appended_at is not None:",
        (_OUTBOX + "test_while_the_broker_is_away_nothing_is_marked_and_the_reason_is_told",),
    ),
    Mutation(
        "rule-published-once",
        "a relay that cannot know looks whether a rule is on its topic",
        "api/outbox_publisher.py",
        "        if not self._unsure:\n            return self._send(waiting)\n        try:",
        "        if self._unsure or not self._unsure:\n            return self._send(waiting)\n        try:",
        (_OUTBOX + "test_after_a_crash_between_acknowledgement_and_mark_a_rule_is_not_published_twice",),
    ),
    Mutation(
        "one-relay",
        "one relay works at a time",
        "api/queries.sql",
        "-- name: take_relay_lock\nSELECT pg_try_advisory_lock(%(lock)s) AS taken;",
        "-- name: take_relay_lock\nSELECT %(lock)s IS NOT NULL AS taken;",
        (_OUTBOX + "test_a_second_relay_waits_ready_and_takes_over_when_the_first_is_killed",),
    ),
    Mutation(
        "control-version",
        "a control record with a lower version than the one held is ignored",
        "schemas/control.py",
        "        if held is not None and held.version > change.record.version:\n            return False\n",
        "",
        ("tests/integration/test_control_table.py::test_a_lower_version_and_a_malformed_record_change_nothing",),
    ),
    Mutation(
        "row-level-security",
        "the API's role sees its tenant's rows",
        "schemas/sql/0003_data.sql",
        "CREATE POLICY own_tenant ON %I FOR SELECT TO ps_api USING (tenant = current_tenant())",
        "CREATE POLICY own_tenant ON %I FOR SELECT TO ps_api USING (true)",
        (
            "tests/integration/test_sink_roles.py::test_the_api_sees_the_rows_of_the_tenant_that_is_set_and_none_without_one",
        ),
    ),
    Mutation(
        "loss-ledgered",
        "a tick that found no room is written down as missing",
        "producers/lanes.py",
        "            self._gaps.open(BUFFER, min(parcel.received_time, oldest) - 1, _BUFFER_FULL)\n",
        "",
        (_OUTAGE + "test_ticks_beyond_a_full_buffer_are_counted_and_written_down",),
    ),
    Mutation(
        "lost-trade-fetched",
        "a trade that reached no tenant counts as missing, and is fetched",
        "producers/lanes.py",
        "            self._trades.lost(parcel.product, trade_id, parcel.cause)",
        "            self._trades.acknowledged(parcel.product, trade_id)",
        (_OUTAGE + "test_trades_that_a_full_buffer_drops_are_handed_back_and_can_be_published_again",),
    ),
    Mutation(
        "outputs-before-checkpoint",
        "the streams' outputs are acknowledged before the checkpoint that contains them",
        "streams/lane.py",
        "        for receipt in work.receipts:\n            await receipt.done.wait()\n        self._waiting = None",
        "        self._waiting = None",
        (_LANE + "test_a_checkpoint_waits_for_the_outputs_that_it_contains_and_batches_for_the_checkpoint",),
    ),
    Mutation(
        "streams-fence",
        "a worker that was replaced commits nothing",
        "streams/checkpoint.py",
        '                "transactional.id": name,',
        '                "transactional.id": name + __import__("secrets").token_hex(8),',
        (
            "tests/integration/test_stream_checkpoints.py::test_a_former_owner_is_fenced_and_nothing_that_it_writes_shows",
        ),
    ),
    Mutation(
        "acknowledged-when-written",
        "a batch is acknowledged when the checkpoint that contains it is written",
        "streams/lane.py",
        "            self._open.acks.append((source.tenant, ack))",
        "            ack()",
        (_LANE + "test_a_checkpoint_waits_for_the_outputs_that_it_contains_and_batches_for_the_checkpoint",),
    ),
    Mutation(
        "ownership-proved",
        "a worker that stood still proves that its partitions are its own before it folds on",
        "streams/lane.py",
        "            if self._paused():\n                await self.checkpoint()\n"
        "            elif not self._certain.is_set():",
        "            if not self._certain.is_set():",
        (_LANE + "test_after_it_stood_still_the_process_proves_that_the_partition_is_its_own_before_it_folds_on",),
    ),
    Mutation(
        "rate-limit",
        "a bucket that does not hold the tokens gives none",
        "api/limits/bucket.py",
        "        if full_at - now > self._window or second_full_at - now > self._second_window:",
        "        if full_at - now > 2 * self._window or second_full_at - now > self._second_window:",
        (_BUCKETS + "test_two_buckets_at_once_are_two_buckets_and_take_from_both_or_from_none",),
    ),
    Mutation(
        "buckets-kept",
        "a bucket is forgotten only when it is full",
        "api/limits/accounts.py",
        "        self._old_draws, self._old_tenants = (self._draws, self._tenants) if is_next else ({}, {})",
        "        self._old_draws, self._old_tenants = (self._draws, {}) if is_next else ({}, {})",
        (_BUCKETS + "test_no_account_is_forgotten_before_it_is_full",),
    ),
    Mutation(
        "limits-shared",
        "processes share a tenant's rate",
        "api/limits/bucket.py",
        "-(-share * SECOND // rate)",
        "-(-SECOND // rate)",
        (_BUCKETS + "test_processes_together_let_no_more_pass_than_the_tier_says",),
    ),
    Mutation(
        "events-counted",
        "a batch costs as many tokens as it has events",
        "api/ingestion/app.py",
        "        self._limiter.spend(caller, len(parsed))",
        "        self._limiter.spend(caller, 1)",
        (_RUNNING_LIMITS + "test_a_batch_costs_as_many_events_as_it_has_and_what_is_refused_is_not_stored",),
    ),
    Mutation(
        "bad-keys-counted",
        "an address that guesses is refused before anything is looked up",
        "api/limits/entrance.py",
        "        if wait:\n",
        "        if wait < 0:\n",
        (_LIMITS + "test_bad_keys_of_an_address_are_refused_before_anything_is_looked_up",),
    ),
    Mutation(
        "addresses-kept",
        "a flood of addresses frees nobody",
        "api/limits/addresses.py",
        "        return len(self) >= self._most\n",
        "        return False\n",
        (_LIMITS + "test_a_flood_of_addresses_grows_nothing_and_frees_nobody",),
    ),
    Mutation(
        "quota",
        "a tenant gets no more of something than its tier allows",
        "api/limits/quotas.py",
        "        if wanted > limit:",
        "        if wanted > 2 * limit:",
        (_RUNNING_LIMITS + "test_a_tenant_gets_no_more_rules_than_its_tier_allows_however_many_are_made_at_once",),
    ),
    Mutation(
        "usage-once",
        "a batch of usage that is sent again is not added again",
        "schemas/sql/0022_deletion.sql",
        " WHERE held.number < excluded.number;",
        ";",
        (_USAGE + "test_a_batch_that_is_sent_twice_is_added_once",),
    ),
    Mutation(
        "usage-at-a-stop",
        "a process stores what it has counted when it stops",
        "api/server.py",
        "        await usage.store()\n",
        "",
        (_USAGE + "test_what_was_counted_is_stored_at_a_stop_and_shown_by_day",),
    ),
    Mutation(
        "live-own-place",
        "a client that comes to the log with a token sees nothing that is before it",
        "api/live/alert_log.py",
        "            is_new = last.offset >= self._own[last.partition]\n",
        "            is_new = last.offset >= 0\n",
        (_LIVE_SESSION + "test_each_alert_arrives_once_and_in_order_whatever_happens_between",),
    ),
    Mutation(
        "live-missing-read",
        "a client before the log's beginning reads what the log no longer has",
        "api/live/alert_log.py",
        "            if own < begin\n",
        "            if own < begin < 0\n",
        (_LIVE_SESSION + "test_each_alert_arrives_once_and_in_order_whatever_happens_between",),
    ),
    Mutation(
        "live-late-tick",
        "a late tick does not replace a newer one",
        "api/live/latest.py",
        "        elif row.order < held.order:\n",
        "        elif row.order < ():\n",
        (_LIVE_SESSION + "test_the_last_tick_shown_of_a_product_is_the_newest",),
    ),
    Mutation(
        "live-conflated",
        "a batch that was not taken is not forgotten for the next one",
        "api/live/latest.py",
        "        if self._whole is not None:\n            self._stale.update(",
        "        if self._whole is not None:\n            dict[Key, None]().update(",
        (_LIVE_SESSION + "test_a_client_that_is_two_batches_behind_gets_what_was_in_either",),
    ),
    Mutation(
        "live-bounded",
        "the log of alerts is bounded by its size",
        "api/live/alert_log.py",
        "        while len(self._entries) > self._most or self._size > self._most_bytes:\n",
        "        while len(self._entries) > self._most:\n",
        (_LIVE_SESSION + "test_the_log_of_alerts_is_bounded_by_number_and_size",),
    ),
    Mutation(
        "live-repeats-seen",
        "an alert that a worker sends again is shown once, if this process has seen its rule",
        "api/live/view.py",
        "    if verdict is Verdict.REPEAT or (",
        "    if (",
        (_LIVE + "test_alerts_that_a_worker_sends_again_are_shown_once",),
    ),
    Mutation(
        "live-begins-at-snapshot",
        "the topics are read from the snapshot's positions on",
        "api/live/hub.py",
        "            offsets = snapshot.next_offsets() if seen is None",
        "            offsets = {} if seen is None",
        (_LIVE + "test_a_client_sees_what_is_there_and_then_what_comes",),
    ),
    Mutation(
        "live-keys-checked",
        "a key that is revoked ends its connections",
        "api/live/hub.py",
        "            await self._check_keys()\n",
        "",
        (_LIVE + "test_a_revoked_key_ends_its_connections",),
    ),
    Mutation(
        "key-role",
        "no key makes or touches one of a higher role",
        "api/keys_admin/policy.py",
        "    if _RANKS[role] > _RANKS[actor.role]:",
        "    if _RANKS[role] > len(_RANKS):",
        (_KEYS + "test_who_may_what_to_which_key",),
    ),
    Mutation(
        "key-life",
        "a key that ends gives no longer life than its own",
        "api/keys_admin/policy.py",
        "    if _outlasts(expires_at, actor.expires_at):",
        "    if _outlasts(expires_at, expires_at):",
        (_KEYS + "test_a_key_that_ends_gives_no_longer_life_than_its_own",),
    ),
    Mutation(
        "last-owner-key",
        "a tenant keeps an Owner key that does not end",
        "api/keys_admin/policy.py",
        "    if not counts.lasting_owners:",
        "    if counts.lasting_owners < 0:",
        (_KEYS + "test_the_last_owner_key_without_an_end_is_kept",),
    ),
    Mutation(
        "key-changes-take-turns",
        "changes of a tenant's keys take turns",
        "api/keys_admin/service.py",
        "            await lock_tenant(connection, caller.tenant)\n",
        "",
        (_KEYS + "test_a_change_of_keys_waits_for_the_tenants_turn",),
    ),
    Mutation(
        "revoked-key-makes-none",
        "a key that was revoked makes no other, also where it is still taken",
        "api/keys_admin/policy.py",
        '    if actor is None or actor.state(now) != "active":',
        "    if actor is None:",
        (_KEYS + "test_a_key_that_was_revoked_elsewhere_makes_no_other_while_it_is_still_taken_here",),
    ),
    Mutation(
        "revoked-key-forgotten",
        "the process that revoked a key refuses it at once",
        "api/keys_admin/service.py",
        '        self._forget(key_id)\n        _account("key revoked", caller, held)',
        '        _account("key revoked", caller, held)',
        (_KEYS + "test_a_revoked_key_is_refused_at_once_by_the_process_that_revoked_it",),
    ),
    Mutation(
        "key-asked-for-again",
        "a process asks for a key again after seconds",
        "api/auth.py",
        "AnswerCache(self._ask, monotonic, fresh=FRESH, stale=STALE)",
        "AnswerCache(self._ask, monotonic, fresh=10 * FRESH, stale=STALE)",
        (_KEYS + "test_a_key_revoked_over_one_process_is_refused_by_the_other_within_the_bound",),
    ),
    Mutation(
        "key-answer-dated-by-its-question",
        "what is known of a key is as old as the question",
        "api/cache.py",
        "        asked_at = self._monotonic()\n        value = await self._load(key)\n",
        "        value = await self._load(key)\n        asked_at = self._monotonic()\n",
        (_AUTH + "test_a_key_that_was_revoked_while_the_database_was_asked_lives_no_longer_for_the_time_that_took",),
    ),
    Mutation(
        "key-hashes-unread",
        "the API's role lists no hashes of keys",
        "schemas/sql/0014_keys.sql",
        "REVOKE ALL ON api_keys FROM ps_api, ps_relay;",
        "",
        (_ROLES + "test_the_api_reads_no_hash_of_a_key_and_changes_nothing_that_makes_a_key_what_it_is",),
    ),
    Mutation(
        "audit-one-chain",
        "appends to a tenant's audit take turns",
        "schemas/sql/0012_audit.sql",
        " WHERE tenant = owned FOR UPDATE;",
        " WHERE tenant = owned;",
        (_AUDIT + "test_appends_at_the_same_time_make_one_chain_without_a_gap_also_where_some_are_taken_back",),
    ),
    Mutation(
        "audit-append-only",
        "rows of the audit are not changed or removed, by its owner either",
        "schemas/sql/0012_audit.sql",
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit\n    FOR EACH STATEMENT ",
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit\n    FOR EACH STATEMENT WHEN (false) ",
        (_AUDIT + "test_even_who_owns_the_tables_changes_nothing_in_passing",),
    ),
    Mutation(
        "audit-chained",
        "an edit of the audit breaks its chain",
        "api/audit/chain.py",
        "    if row.hash != sealed(place.hash, row.entry):\n",
        "    if False:\n",
        (_AUDIT_CHAIN + "test_an_edit_of_any_column_shows_at_its_row",),
    ),
    Mutation(
        "audit-cut-tail",
        "rows that are cut off the audit's end show",
        "api/audit/chain.py",
        "    if place.seq < head.place.seq:\n",
        "    if False:\n",
        (_AUDIT_CHAIN + "test_rows_that_are_removed_show_at_the_first_of_them_also_at_the_end",),
    ),
    Mutation(
        "audit-kept-hashes",
        "a chain that was made anew shows at a hash that was kept",
        "api/audit/chain.py",
        "        if kept.get(row.seq, row.hash.hex()) != row.hash.hex():\n",
        "        if False:\n",
        (_AUDIT_CHAIN + "test_a_chain_that_was_made_anew_as_a_whole_shows_at_a_hash_that_was_kept",),
    ),
    Mutation(
        "audit-ends-not-covered",
        "an audit that does not fit its published end is not covered by a newer one",
        "api/audit/heads.py",
        "if tenant not in held_back and end != published.get(tenant)]",
        "if end != published.get(tenant)]",
        (_AUDIT_HEADS + "test_a_chain_that_lost_its_end_or_has_another_does_not_fit_and_is_not_covered",),
    ),
    Mutation(
        "audit-without-secrets",
        "no secret enters the audit",
        "api/audit/entry.py",
        '    return _KEY.sub(r"\\1_…", msgspec.json.encode(entry).decode())\n',
        "    return msgspec.json.encode(entry).decode()\n",
        (_AUDIT_CHAIN + "test_a_key_in_what_is_audited_loses_its_secret_and_keeps_its_public_part",),
    ),
    Mutation(
        "reports-without-secrets",
        "no secret is in what is reported to Sentry",
        "pulsestream/core/reports.py",
        "            before_send=_masked,\n",
        "",
        (_REPORTS + "test_what_is_logged_as_an_error_is_reported_without_a_secret",),
    ),
    Mutation(
        "reports-before-the-end",
        "what ends a process is reported before it ends",
        "pulsestream/core/reports.py",
        '    if level == "fatal":  #',
        "    if False:  #",
        (_REPORTS + "test_what_ends_a_process_is_reported_before_it_ends",),
    ),
    Mutation(
        "login-strangers",
        "a user of the broker that no credential asks for is removed",
        "api/kafka_credentials/rights.py",
        "        strangers=frozenset(strangers),\n",
        "        strangers=frozenset(),\n",
        (_LOGINS + "test_a_relay_that_slept_cannot_bring_a_revoked_login_back_for_long",),
    ),
    Mutation(
        "login-quotas-shared",
        "a tenant's credentials share its quotas",
        "api/kafka_credentials/rights.py",
        "    return {name: amount / credential.siblings for",
        "    return {name: float(amount) for",
        (_LOGINS + "test_credentials_of_a_tenant_share_its_quotas_and_a_change_of_tier_changes_them",),
    ),
    Mutation(
        "login-secret-erased",
        "what logs in as well as a password is erased once the broker has it",
        "api/queries.sql",
        "SET rights = %(rights)s, salted_password = NULL, active_at",
        "SET rights = %(rights)s, active_at",
        (_LOGINS + "test_a_relay_that_dies_anywhere_leaves_what_the_next_one_mends",),
    ),
    Mutation(
        "login-users-of-tenants-only",
        "the relay touches no user but those of tenants",
        "api/kafka_credentials/broker.py",
        "        if not user.startswith(PREFIX):\n",
        "        if False:\n",
        (_LOGINS + "test_only_users_of_tenants_are_ever_touched",),
    ),
    Mutation(
        "login-extra-rights",
        "rights that nobody asked for are taken back",
        "api/kafka_credentials/reconciler.py",
        "        self._users.forbid(needed.forbid)\n",
        "",
        (_LOGINS + "test_rights_that_differ_are_put_right",),
    ),
    Mutation(
        "message-that-raises",
        "a message whose sender raises has failed, and the others are sent",
        "sinks/notifier/delivery.py",
        "            outcome = await self._attempt(claimed)\n",
        "            outcome = await self._senders[claimed.kind](claimed, self._clock() // MICROS_PER_SECOND)\n",
        (_NOTIFIER + "test_targets_that_no_sender_can_use_are_failed_attempts_and_harm_nobody",),
    ),
    Mutation(
        "message-before-channel",
        "what became of an attempt is written about its channel first: nobody who deletes one waits in a circle",
        "sinks/notifier/delivery.py",
        'not await record.rows("lock_channel"):\n                return\n            await record.attempt',
        'await record.rows("is_newest") is None:\n                return\n            await record.attempt',
        (_NOTIFIER + "test_who_changes_a_channel_and_its_messages_never_waits_in_a_circle",),
    ),
    Mutation(
        "deadlock-is-the-end",
        "a transaction that the database ends because two wait for each other is tried again",
        "sinks/notifier/store.py",
        "    psycopg.errors.DeadlockDetected,\n",
        "",
        (_NOTIFIER + "test_a_transaction_that_the_database_ends_because_two_wait_for_each_other_is_tried_again",),
    ),
    Mutation(
        "tenant-that-ended",
        "a worker that runs removes what it knows of a tenant that is no more",
        "streams/ownership.py",
        "                lane.erase(change.key)\n",
        "                pass\n",
        (_STATE + "test_of_a_tenant_that_is_no_more_nothing_stays_in_the_state",),
    ),
    Mutation(
        "tenant-that-had-ended",
        "a worker that starts removes what the state holds of tenants that are no more",
        "streams/ownership.py",
        "                lane.erase(tenant)\n",
        "                pass\n",
        (_STATE + "test_of_a_tenant_that_is_no_more_nothing_stays_in_the_state",),
    ),
    Mutation(
        "body-of-a-delete",
        "a body is bounded whatever the method, before the key is looked at",
        "api/edge.py",
        '"POST", "PUT", "PATCH", "DELETE"',
        '"POST", "PUT", "PATCH"',
        (_ROUTES + "test_a_body_is_bounded_whatever_the_method_and_without_a_key",),
    ),
)
