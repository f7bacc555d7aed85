package peers;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** What a window holds, and its two forms: 48 bytes in the store, one JSON record on the topic. */
record Window(long count, double open, double high, double low, double close, double volume) {
    static final Window EMPTY = new Window(0, 0, Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY, 0, 0);
    static final Serde<Window> SERDE = Serdes.serdeFrom((topic, window) -> window.bytes(), (topic, bytes) -> of(bytes));

    Window add(Tick tick) {
        double price = tick.price();
        return new Window(
                count + 1,
                count == 0 ? price : open,
                Math.max(high, price),
                Math.min(low, price),
                price,
                volume + tick.size());
    }

    byte[] json(String product, long start) {
        String text = "{\"product\": \"" + product + "\", \"start\": " + start + ", \"count\": " + count + ", \"open\": " + open
                + ", \"high\": " + high + ", \"low\": " + low + ", \"close\": " + close + ", \"volume\": " + volume + "}";
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private byte[] bytes() {
        return ByteBuffer.allocate(48)
                .putLong(count)
                .putDouble(open)
                .putDouble(high)
                .putDouble(low)
                .putDouble(close)
                .putDouble(volume)
                .array();
    }

    private static Window of(byte[] bytes) {
        if (bytes == null) {
            return null;
        }
        ByteBuffer in = ByteBuffer.wrap(bytes);
        return new Window(
                in.getLong(), in.getDouble(), in.getDouble(), in.getDouble(), in.getDouble(), in.getDouble());
    }
}
