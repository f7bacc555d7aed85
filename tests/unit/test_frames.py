import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.frames import MAX_LINE, Frame, FrameError, FrameWriter, format_frame, read_frames

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def recording(folder: Path, content: bytes) -> Path:
    path = folder / "some.frames"
    path.write_bytes(content)
    return path


@given(frames=st.lists(st.tuples(st.integers(0, 10**17), OBJECTS, st.booleans()), max_size=5))
def test_what_was_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[int, object, bool]]
) -> None:
    path = tmp_path_factory.mktemp("frames") / "written.frames"
    texts = [(at, json.dumps(value, ensure_ascii=ascii_only)) for at, value, ascii_only in frames]

    with FrameWriter(path) as writer:
        for at, text in texts:
            writer.write(at, text)

    assert list(read_frames(path)) == [Frame(at, text, line) for line, (at, text) in enumerate(texts, start=1)]


def test_a_frame_is_readable_before_the_writer_closes(tmp_path: Path) -> None:
    path = tmp_path / "open.frames"

    with FrameWriter(path) as writer:
        writer.write(1_618_677_817_061_845, '{"type":"ticker"}')

        assert path.read_text() == '1618677817.061845 {"type":"ticker"}\n'


def test_line_breaks_between_tokens_become_spaces_and_the_value_stays_the_same() -> None:
    text = '{\r\n"name": "a\\nb\u2028"\n}'

    line = format_frame(1, text)

    assert line.count("\n") == 1
    assert json.loads(line.partition(" ")[2]) == {"name": "a\nb\u2028"}


@pytest.mark.parametrize(
    ("stamp", "micros"),
    [
        (b"1618677817.061845", 1_618_677_817_061_845),
        (b"1618677817", 1_618_677_817_000_000),
        (b"1618677817.5", 1_618_677_817_500_000),
        (b"1618677817.0618459", 1_618_677_817_061_845),
    ],
)
def test_receipt_times_are_exact_to_the_microsecond(tmp_path: Path, stamp: bytes, micros: int) -> None:
    path = recording(tmp_path, stamp + b" {}\n")

    assert [frame.received for frame in read_frames(path)] == [micros]


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = recording(tmp_path, b'1.0 {}\r\n\n  \n2.0 {"a":1}')

    assert list(read_frames(path)) == [Frame(1_000_000, "{}", 1), Frame(2_000_000, '{"a":1}', 4)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{}", "does not begin with epoch seconds"),
        (b"-1.5 {}", "does not begin with epoch seconds"),
        (b"1e9 {}", "does not begin with epoch seconds"),
        (b"nan {}", "does not begin with epoch seconds"),
        ("١٢ {}".encode(), "does not begin with epoch seconds"),
        (b"1.5", "has no JSON object"),
        (b"1.5 [1]", "has no JSON object"),
        (b'1.5 {"a":', "holds broken JSON"),
        (b"1.5 {} {}", "holds broken JSON"),
        (b'1.5 {"a":' + b"[" * 100_000, "holds broken JSON"),
        (b'1.5 {"a":"\xff"}', "is not UTF-8"),
    ],
)
def test_a_faulty_line_is_named_with_file_number_and_fault(tmp_path: Path, line: bytes, fault: str) -> None:
    path = recording(tmp_path, b"1.0 {}\n" + line + b"\n")
    frames = read_frames(path)
    next(frames)

    with pytest.raises(FrameError, match=fault) as caught:
        next(frames)

    assert str(caught.value).startswith(f"{path}: line 2 ")


def test_reading_is_lazy_so_that_a_fault_shows_when_it_is_reached(tmp_path: Path) -> None:
    path = recording(tmp_path, b"1.0 {}\n" * 1000 + b"broken\n")

    assert next(read_frames(path)).line == 1


def test_a_file_without_line_ends_is_refused_instead_of_filling_the_memory(tmp_path: Path) -> None:
    path = recording(tmp_path, b"1.0 {" + b" " * MAX_LINE + b"}")

    with pytest.raises(FrameError, match="line 1 is longer than"):
        list(read_frames(path))


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"absent\.frames: cannot be read: No such file"):
        list(read_frames(tmp_path / "absent.frames"))


def test_a_file_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="cannot be written"):
        FrameWriter(tmp_path / "absent" / "some.frames")


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_give_frames_or_a_frame_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = recording(tmp_path_factory.mktemp("bytes"), content)

    try:
        frames = list(read_frames(path))
    except FrameError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right, a third is not
    else:
        assert all(isinstance(json.loads(frame.text), dict) for frame in frames)
