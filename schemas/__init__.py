"""The contract: records as Avro and as rows, their codecs, their validation, and the SQL migrations."""
