package peers;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.time.Duration;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;

/** The windows in Kafka Streams: RocksDB with a changelog topic, one thread. Arguments: orders, `whole` or `needed`. */
public final class Windows {
    private Windows() {}

    public static void main(String[] arguments) throws Exception {
        JsonNode job = new ObjectMapper().readTree(new File(arguments[0]));
        Schema schema = new Schema.Parser().parse(job.get("schema").asText());
        Deserializer<Tick> reader = arguments[1].equals("whole") ? Tick.whole(schema) : Tick.needed();
        KafkaStreams streams = new KafkaStreams(topology(job, reader), properties(job));
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    private static Topology topology(JsonNode job, Deserializer<Tick> reader) {
        Serde<Tick> ticks = Serdes.serdeFrom((topic, tick) -> null, reader);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(
                        job.get("source").asText(),
                        Consumed.with(Serdes.String(), ticks)
                                .withTimestampExtractor((record, time) -> ((Tick) record.value()).time() / 1000))
                .groupByKey(Grouped.with(Serdes.String(), ticks))
                .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofSeconds(job.get("size").asLong()))
                        .advanceBy(Duration.ofSeconds(job.get("step").asLong())))
                .emitStrategy(EmitStrategy.onWindowClose())
                .aggregate(
                        () -> Window.EMPTY,
                        (product, tick, window) -> window.add(tick),
                        Materialized.with(Serdes.String(), Window.SERDE))
                .toStream()
                .map((at, window) -> KeyValue.pair(at.key(), window.json(at.key(), at.window().start() * 1000)))
                .to(job.get("sink").asText(), Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    private static Properties properties(JsonNode job) {
        Properties wanted = new Properties();
        wanted.put(StreamsConfig.APPLICATION_ID_CONFIG, job.get("name").asText());
        wanted.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.get("bootstrap").asText());
        wanted.put(StreamsConfig.STATE_DIR_CONFIG, job.get("folder").asText());
        wanted.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        wanted.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Math.round(job.get("commit").asDouble() * 1000));
        wanted.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        wanted.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 5000);
        wanted.put("security.protocol", "SASL_PLAINTEXT");
        wanted.put("sasl.mechanism", "SCRAM-SHA-256");
        wanted.put(
                "sasl.jaas.config",
                String.format(
                        "org.apache.kafka.common.security.scram.ScramLoginModule required"
                                + " username=\"%s\" password=\"%s\";",
                        job.get("username").asText(), job.get("password").asText()));
        return wanted;
    }
}
