package registry;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.FileReader;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Reads a tenant's topic, or writes an event to it: Kafka's own client, Avro's library, and the registry's REST API.
 *
 * <p>The two classes within do what Confluent's KafkaAvroDeserializer and KafkaAvroSerializer do with the same
 * properties. Use those where they can be had.
 */
public final class Client {
    private static final byte MAGIC = 0;

    public static void main(String[] given) throws Exception {
        Properties properties = new Properties();
        properties.load(new FileReader(given[0], StandardCharsets.UTF_8));
        Map<String, Object> settings = new HashMap<>();
        properties.forEach((name, value) -> settings.put(name.toString(), value));
        if (given[1].equals("read")) {
            read(settings, given[2], Integer.parseInt(given[3]));
        } else {
            write(settings, given[2], given[3]);
        }
    }

    /** Prints so many records of a topic, each as one line of JSON. */
    private static void read(Map<String, Object> settings, String topic, int count) {
        AvroDeserializer values = new AvroDeserializer();
        values.configure(settings, false);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), values)) {
            consumer.subscribe(List.of(topic));
            for (int seen = 0; seen < count; ) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.println(record.value());
                    seen += 1;
                }
            }
        }
    }

    /** Writes one event and waits for the broker's word. */
    private static void write(Map<String, Object> settings, String topic, String id) throws Exception {
        AvroSerializer values = new AvroSerializer();
        values.configure(settings, false);
        long now = System.currentTimeMillis() * 1000;
        GenericRecord event = new GenericRecordBuilder(values.latest(topic).schema())
                .set("event_id", "/java:" + id)
                .set("type", "order.filled")
                .set("source", "/java")
                .set("time", now)
                .set("received_time", now)
                .set("data", "{\"size\": 0.25}")
                .build();
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), values)) {
            producer.send(new ProducerRecord<>(topic, "BTC-USD", event)).get();
        }
    }

    /** A schema and the id that stands in front of its records. */
    record Known(int id, Schema schema) {}

    /** The registry over REST, with HTTP's Basic authentication. */
    private static final class Registry {
        private final HttpClient http = HttpClient.newHttpClient();
        private final ObjectMapper json = new ObjectMapper();
        private final String url;
        private final String login;

        Registry(Map<String, ?> settings) {
            url = settings.get("schema.registry.url").toString();
            String user = settings.get("basic.auth.user.info").toString();
            login = "Basic " + Base64.getEncoder().encodeToString(user.getBytes(StandardCharsets.UTF_8));
        }

        JsonNode ask(String path) {
            var request = HttpRequest.newBuilder(URI.create(url + path)).header("Authorization", login).build();
            try {
                var answer = http.send(request, BodyHandlers.ofString());
                if (answer.statusCode() != 200) {
                    throw new SerializationException(path + ": " + answer.statusCode() + " " + answer.body());
                }
                return json.readTree(answer.body());
            } catch (java.io.IOException error) {
                throw new SerializationException(path + " cannot be asked for", error);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
                throw new SerializationException(error);
            }
        }
    }

    /** Reads Confluent's wire format: a zero byte, the schema's id in four bytes, the Avro body. */
    static final class AvroDeserializer implements Deserializer<GenericRecord> {
        private final Map<Integer, Schema> known = new HashMap<>();
        private Registry registry;

        @Override
        public void configure(Map<String, ?> settings, boolean isKey) {
            registry = new Registry(settings);
        }

        @Override
        public GenericRecord deserialize(String topic, byte[] value) {
            ByteBuffer bytes = ByteBuffer.wrap(value);
            if (bytes.get() != MAGIC) {
                throw new SerializationException("not a record of a registry");
            }
            Schema schema = known.computeIfAbsent(bytes.getInt(), this::ask);
            var decoder = DecoderFactory.get().binaryDecoder(value, bytes.position(), bytes.remaining(), null);
            try {
                return new GenericDatumReader<GenericRecord>(schema).read(null, decoder);
            } catch (java.io.IOException error) {
                throw new SerializationException(error);
            }
        }

        private Schema ask(int id) {
            return new Schema.Parser().parse(registry.ask("/schemas/ids/" + id).get("schema").asText());
        }
    }

    /** Writes with the newest schema of the topic's subject; it can register none, and has to be told so. */
    static final class AvroSerializer implements Serializer<GenericRecord> {
        private final Map<String, Known> known = new HashMap<>();
        private Registry registry;

        @Override
        public void configure(Map<String, ?> settings, boolean isKey) {
            if (!"false".equals(settings.get("auto.register.schemas"))
                    || !"true".equals(settings.get("use.latest.version"))) {
                throw new SerializationException("auto.register.schemas=false and use.latest.version=true are needed");
            }
            registry = new Registry(settings);
        }

        @Override
        public byte[] serialize(String topic, GenericRecord value) {
            Known latest = latest(topic);
            var out = new ByteArrayOutputStream();
            out.write(MAGIC);
            out.writeBytes(ByteBuffer.allocate(4).putInt(latest.id()).array());
            var encoder = EncoderFactory.get().binaryEncoder(out, null);
            try {
                new GenericDatumWriter<GenericRecord>(latest.schema()).write(value, encoder);
                encoder.flush();
            } catch (java.io.IOException error) {
                throw new SerializationException(error);
            }
            return out.toByteArray();
        }

        Known latest(String topic) {
            return known.computeIfAbsent(topic, name -> {
                String subject = URLEncoder.encode(name + "-value", StandardCharsets.UTF_8);
                JsonNode found = registry.ask("/subjects/" + subject + "/versions/latest");
                return new Known(found.get("id").asInt(), new Schema.Parser().parse(found.get("schema").asText()));
            });
        }
    }
}
