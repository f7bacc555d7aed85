"""The streams benchmark: one small program per peer, the data all of them read, and the race between them.

Every program does the same: 60 s windows of each product's ticks (Confluent-framed Avro), event time from the record,
state that survives the process, each closed window as one JSON record on a topic.
"""
