#!/bin/bash
# Starts the official Apache Kafka image with an administrator: SCRAM users live in the broker's own metadata, so the
# first one has to be put there when the storage is made. The image's own start follows, and leaves that as it is.
set -euo pipefail
if [[ ! -e $KAFKA_LOG_DIRS/meta.properties ]]; then
    new=$(mktemp)
    cat >"$new" <<PROPERTIES
process.roles=$KAFKA_PROCESS_ROLES
node.id=$KAFKA_NODE_ID
controller.quorum.voters=$KAFKA_CONTROLLER_QUORUM_VOTERS
controller.listener.names=$KAFKA_CONTROLLER_LISTENER_NAMES
inter.broker.listener.name=$KAFKA_INTER_BROKER_LISTENER_NAME
listeners=$KAFKA_LISTENERS
advertised.listeners=$KAFKA_ADVERTISED_LISTENERS
listener.security.protocol.map=$KAFKA_LISTENER_SECURITY_PROTOCOL_MAP
log.dirs=$KAFKA_LOG_DIRS
PROPERTIES
    /opt/kafka/bin/kafka-storage.sh format --cluster-id "$CLUSTER_ID" --config "$new" \
        --add-scram "SCRAM-SHA-256=[name=admin,password=$ADMIN_PASSWORD]"
    rm "$new"
fi
exec /etc/kafka/docker/run
