"""Recordings on the disk: what was stored is read again, whatever happened after it."""

import json
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.errors import FrameError
from producers.frames import Frame, FrameWriter, format_received, read_frames
from producers.recording import Block, RecordingWriter, Rotation, index_path, read_index

SECOND = 1_000_000
BEGIN = 1_618_677_817_061_845
FRAMES = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=30).map(str.encode),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"", b'"a"', b"bAA==", b'{"a":\n1}', b'{"a":1}\r', b"{\xff}", b" {} ", b"null", "{\u2028}".encode()]
    ),
)
ARRIVALS = st.lists(st.tuples(st.integers(0, 3 * SECOND), FRAMES, st.integers(1, 3)), min_size=1, max_size=20)
Arrival = tuple[int, bytes, int]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recording")


def record(
    folder: Path, arrivals: list[Arrival], *, per_block: int = 4, rotation: Rotation | None = None
) -> list[Frame]:
    """Write frames that arrive one pause after the other, some to a block; returns what has to be read."""
    at, expected = BEGIN, []
    with RecordingWriter(folder, "coinbase", rotation) as writer:
        for number, (pause, raw, connection) in enumerate(arrivals, start=1):
            at += pause
            writer.write(at, format_received(at, raw, connection))
            expected.append(Frame(at, raw.decode("utf-8", "surrogateescape"), number, connection))
            if number % per_block == 0 and (block := writer.cut()):
                writer.store(block)
    return expected


def ticks(count: int, pause: int = SECOND // 2) -> list[Arrival]:
    return [(pause, b'{"sequence":%d}' % number, 1) for number in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.frames.zst"))


def without_line(frames: Iterator[Frame] | list[Frame]) -> list[tuple[int, str, int]]:
    return [(frame.received, frame.text, frame.connection) for frame in frames]


@given(arrivals=ARRIVALS)
def test_frames_are_read_again_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, arrivals: list[Arrival]) -> None:
    folder = tmp_path_factory.mktemp("recording")

    expected = record(folder, arrivals)

    read = list(read_frames(files(folder)[0], everything=True))
    assert read == expected
    assert [frame.raw for frame in read] == [raw for _, raw, _ in arrivals]


def test_what_is_no_json_object_is_left_out_with_a_warning_unless_everything_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(folder, [(1, b'{"a":1}', 1), (1, b"\xff\x00", 1), (1, b"pong", 1), (1, b'{"a":', 1), (1, b'{"a":\n2}', 1)])

    assert [frame.text for frame in read_frames(folder)] == ['{"a":1}', '{"a":\n2}']

    assert "frames=3" in capsys.readouterr().out


def test_a_tail_torn_at_any_byte_costs_the_torn_block_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = record(folder, ticks(12))
    [path] = files(folder)
    whole = path.read_bytes()
    entries = read_index(path)
    lines = index_path(path).read_bytes().splitlines(keepends=True)
    ends = [entry.offset for entry in entries[1:]] + [len(whole)]

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        stored = sum(end <= size for end in ends)
        index_path(path).write_bytes(b"".join(lines[:stored]))

        assert list(read_frames(path)) == expected[: 4 * stored]
        warned = "torn" in capsys.readouterr().out
        assert warned == (size not in {0, *ends})


def test_an_index_torn_at_any_byte_costs_no_frame(folder: Path) -> None:
    expected = record(folder, ticks(12))
    [path] = files(folder)
    whole = index_path(path).read_bytes()

    for size in range(len(whole)):
        index_path(path).write_bytes(whole[:size])

        assert list(read_frames(path, start=expected[6].received)) == expected[6:]


def test_a_tail_of_zeros_that_a_power_cut_left_is_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = record(folder, ticks(8))
    [path] = files(folder)
    with path.open("ab") as file:
        file.write(bytes(4096))

    assert list(read_frames(path)) == expected

    assert "torn" in capsys.readouterr().out


def test_damage_to_what_was_stored_is_an_error_after_all_that_stands_before_it(folder: Path) -> None:
    expected = record(folder, ticks(12))
    [path] = files(folder)
    content = bytearray(path.read_bytes())
    content[read_index(path)[1].offset + 20] ^= 0xFF
    path.write_bytes(content)
    frames = read_frames(path)

    assert [next(frames) for _ in range(4)] == expected[:4]
    with pytest.raises(FrameError, match=r"the block at byte \d+ is damaged"):
        next(frames)


@given(
    arrivals=ARRIVALS, bounds=st.tuples(st.integers(-2, 60 * SECOND), st.integers(-2, 60 * SECOND)), index=st.booleans()
)
@settings(max_examples=60)
def test_reading_between_two_times_equals_reading_everything_and_leaving_out(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[Arrival], bounds: tuple[int, int], index: object
) -> None:
    folder = tmp_path_factory.mktemp("recording")
    record(folder, arrivals, rotation=Rotation(seconds=9.0))
    start, end = (BEGIN + bound for bound in bounds)
    if not index:
        for path in files(folder):
            index_path(path).unlink()

    for path in (folder, *files(folder)):
        everything = list(read_frames(path, everything=True))
        between = [frame for frame in everything if start <= frame.received < end]
        assert list(read_frames(path, start=start, end=end, everything=True)) == between


def test_the_index_spares_reading_what_lies_before(folder: Path) -> None:
    expected = record(folder, ticks(12))
    [path] = files(folder)
    content = bytearray(path.read_bytes())
    content[: read_index(path)[2].offset] = bytes(read_index(path)[2].offset)
    path.write_bytes(content)

    assert list(read_frames(path, start=expected[9].received)) == expected[9:]


def test_files_end_after_their_time_or_their_size(folder: Path) -> None:
    by_time, by_size = folder / "time", folder / "size"

    expected = record(by_time, ticks(12, SECOND), rotation=Rotation(seconds=8.0))
    record(by_size, ticks(12, SECOND), rotation=Rotation(size=1))

    assert [len(list(read_frames(path))) for path in files(by_time)] == [8, 4]
    assert [len(list(read_frames(path))) for path in files(by_size)] == [4, 4, 4]
    assert files(by_time)[0].name == "coinbase-20210417T164338.061845Z.frames.zst"
    assert without_line(read_frames(by_time)) == without_line(read_frames(by_size)) == without_line(expected)


def test_a_folder_of_overlapping_recordings_is_one_in_time_order(folder: Path) -> None:
    first = record(folder, ticks(6, SECOND))
    second = record(folder, ticks(6, SECOND // 3))
    with FrameWriter(folder / "plain.frames") as plain:
        plain.write(first[2].received + 1, '{"plain":1}')

    read = without_line(read_frames(folder))

    expected = [*without_line(first), *without_line(second), (first[2].received + 1, '{"plain":1}', 1)]
    assert sorted(read) == sorted(expected)
    assert [at for at, _, _ in read] == sorted(at for at, _, _ in expected)
    assert len(files(folder)) == 2


def test_a_clock_that_is_set_back_stands_still_in_the_recording(folder: Path) -> None:
    with RecordingWriter(folder, "coinbase") as writer:
        moments = []
        for at in (5, 3, 6):
            moments.append(writer.moment(at))
            writer.write(moments[-1], format_received(moments[-1], b"{}"))

    assert moments == [5, 5, 6]
    assert [frame.received for frame in read_frames(folder)] == moments


def test_what_is_cut_is_stored_while_more_arrives(folder: Path) -> None:
    with RecordingWriter(folder, "coinbase") as writer:
        writer.write(1, format_received(1, b"{}"))
        block = writer.cut()
        writer.write(2, format_received(2, b"{}"))
        assert block is not None
        writer.store(block)
        assert (writer.frames, writer.buffered) == (1, len(b"0.000002 {}\n"))
        assert writer.cut() is not None
        assert writer.cut() is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"no recording at all", "is no zstd recording"),
        (b"1.0 {}\n", "is no zstd recording"),
    ],
)
def test_a_file_that_is_no_recording_is_one_clear_error(folder: Path, content: bytes, fault: str) -> None:
    path = folder / "some.frames.zst"
    path.write_bytes(content)

    with pytest.raises(FrameError, match=fault) as caught:
        list(read_frames(path))

    assert str(path) in str(caught.value)


def test_a_line_that_no_recorder_wrote_is_named(folder: Path) -> None:
    for number, line in enumerate((b"now {}\n", b'1.0 "\n', b"1.0 b?\n", b"1.0 \xff\n")):
        with RecordingWriter(folder / str(number), "coinbase") as writer:
            writer.write(1, line)

        with pytest.raises(FrameError, match=r"frames\.zst: line 1 "):
            list(read_frames(folder / str(number)))


def test_a_folder_without_recording_and_a_missing_one_are_clear_errors(folder: Path) -> None:
    with pytest.raises(FrameError, match="holds no recording"):
        list(read_frames(folder))
    with pytest.raises(FrameError, match="No such file"):
        list(read_frames(folder / "absent.frames.zst"))


def test_an_output_that_cannot_be_a_folder_is_a_clear_error(folder: Path) -> None:
    (folder / "file").write_text("")

    with pytest.raises(FrameError, match="cannot be written"):
        RecordingWriter(folder / "file", "coinbase")


def test_a_full_disk_costs_what_did_not_fit_and_nothing_that_follows(folder: Path) -> None:
    def lines(text: str) -> bytes:
        return format_received(BEGIN, json.dumps({"text": text}).encode())

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RecordingWriter(folder, "coinbase") as writer:
        writer.store(Block(BEGIN, BEGIN, 1, lines("before")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(FrameError, match="cannot be written: File too large"):
                writer.store(Block(BEGIN, BEGIN, 1, lines(secrets.token_hex(2_000_000))))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.store(Block(BEGIN, BEGIN, 1, lines("after")))

    assert files(folder)[0].stat().st_size == 1_000_000
    assert [json.loads(frame.text)["text"] for frame in read_frames(folder)] == ["before", "after"]
