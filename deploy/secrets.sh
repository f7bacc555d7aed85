#!/bin/sh
# Writes the secrets of docker-compose.kafka.yml into a file, .env beside it unless another is named: each one random
# (192 bits), readable by its owner only. What is there stays as it is, so run it again after an upgrade.
set -eu
umask 077
file=${1:-.env}

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

touch "$file"
chmod 600 "$file"
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
for name in \
    KAFKA_ADMIN_PASSWORD KAFKA_CONTROLLER_PASSWORD \
    KAFKA_PRODUCER_PASSWORD KAFKA_RELAY_PASSWORD KAFKA_STREAM_PASSWORD KAFKA_SINK_PASSWORD KAFKA_NOTIFIER_PASSWORD \
    KAFKA_API_PASSWORD \
    DATABASE_ADMIN_PASSWORD DATABASE_RELAY_PASSWORD DATABASE_SINK_PASSWORD DATABASE_NOTIFIER_PASSWORD DATABASE_API_PASSWORD \
    KEY_PEPPER; do
    grep -q "^$name=." "$file" || echo "$name=$(random)" >>"$file"
done
echo "secrets are in $file: keep a copy in a safe place, because without KEY_PEPPER no API key is valid any more"
