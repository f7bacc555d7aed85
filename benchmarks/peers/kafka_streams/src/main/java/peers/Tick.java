package peers;

import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.serialization.Deserializer;

/** What the windows need of a tick: price, size, and event time in micros; and the two ways to get at it. */
record Tick(double price, double size, long time) {
    /** Bytes before an Avro body: zero and the schema's id. */
    private static final int FRAME = 5;

    /** Decodes every field, as a user of GenericRecord does. */
    static Deserializer<Tick> whole(Schema schema) {
        GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schema);
        BinaryDecoder[] decoder = new BinaryDecoder[1];
        return (topic, bytes) -> {
            try {
                decoder[0] = DecoderFactory.get().binaryDecoder(bytes, FRAME, bytes.length - FRAME, decoder[0]);
                GenericRecord tick = reader.read(null, decoder[0]);
                return new Tick((double) tick.get("price"), (double) tick.get("size"), (long) tick.get("exchange_time"));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        };
    }

    /** Steps over the other fields without making anything of them; the order is the schema's. */
    static Deserializer<Tick> needed() {
        BinaryDecoder[] decoder = new BinaryDecoder[1];
        return (topic, bytes) -> {
            try {
                decoder[0] = DecoderFactory.get().binaryDecoder(bytes, FRAME, bytes.length - FRAME, decoder[0]);
                return needed(decoder[0]);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        };
    }

    private static Tick needed(BinaryDecoder in) throws IOException {
        in.skipString(); // event_id
        in.skipString(); // exchange
        in.skipString(); // product
        skipLong(in); // sequence
        skipLong(in); // trade_id
        if (in.readIndex() == 1) { // side
            in.skipString();
        }
        double price = in.readDouble();
        double size = in.readIndex() == 1 ? in.readDouble() : Double.NaN;
        for (int quote = 0; quote < 4; quote++) { // best_bid, best_bid_size, best_ask, best_ask_size
            skipDouble(in);
        }
        skipLong(in); // quote_time
        for (int daily = 0; daily < 5; daily++) { // open_24h, high_24h, low_24h, volume_24h, volume_30d
            skipDouble(in);
        }
        return new Tick(price, size, in.readLong()); // exchange_time
    }

    private static void skipLong(BinaryDecoder in) throws IOException {
        if (in.readIndex() == 1) {
            in.readLong();
        }
    }

    private static void skipDouble(BinaryDecoder in) throws IOException {
        if (in.readIndex() == 1) {
            in.skipFixed(Double.BYTES);
        }
    }
}
