#!/bin/bash
# Gives the administrator the password $1 in the running broker's metadata; the broker's own login has to follow, by the
# new one in .env and a new start.
set -euo pipefail
umask 077
login=$(mktemp)
trap 'rm "$login"' EXIT
cat >"$login" <<PROPERTIES
security.protocol=SASL_PLAINTEXT
sasl.mechanism=SCRAM-SHA-256
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="$ADMIN_PASSWORD";
PROPERTIES
/opt/kafka/bin/kafka-configs.sh --bootstrap-server kafka:19092 --command-config "$login" --alter \
    --entity-type users --entity-name admin --add-config "SCRAM-SHA-256=[password=$1]"
