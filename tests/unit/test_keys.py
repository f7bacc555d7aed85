"""API keys: shape, checksum, hash."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from api import keys
from pulsestream.core.errors import SettingsError
from pulsestream.core.log import mask_secrets
from pulsestream.core.settings import Settings

PEPPERS = {1: b"first pepper of the tests", 2: b"second pepper of the tests"}
CHARACTERS = st.sampled_from("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-. ")


def test_a_key_is_ps_live_id_secret_and_checksum_in_base62() -> None:
    assert re.fullmatch(r"ps_live_[0-9A-Za-z]{13}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", keys.generate().text)


def test_a_generated_key_is_read_back_whole() -> None:
    key = keys.generate()

    assert keys.parse(key.text) == key


def test_two_keys_share_neither_id_nor_secret() -> None:
    made = [keys.generate() for _ in range(100)]

    assert len({key.id for key in made}) == len({key.secret for key in made}) == 100


@given(st.data())
def test_any_one_wrong_character_is_noticed_without_a_database(data: st.DataObject) -> None:
    text = keys.generate().text
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(CHARACTERS.filter(lambda character: character != text[place]))

    assert keys.parse(text[:place] + wrong + text[place + 1 :]) is None


@given(st.data())
def test_two_swapped_neighbours_are_noticed(data: st.DataObject) -> None:
    text = keys.generate().text
    place = data.draw(st.integers(0, len(text) - 2).filter(lambda i: text[i] != text[i + 1]))

    assert keys.parse(text[:place] + text[place + 1] + text[place] + text[place + 2 :]) is None


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert keys.parse(text) is None


@pytest.mark.parametrize("cut", [1, 6, 30])
def test_a_key_that_was_not_copied_whole_is_noticed(cut: int) -> None:
    assert keys.parse(keys.generate().text[:-cut]) is None


def test_a_key_matches_its_digest_under_the_same_pepper_only() -> None:
    key = keys.generate()
    stored = keys.digest(key, PEPPERS[1])

    assert keys.matches(key, stored, 1, PEPPERS)
    assert not keys.matches(key, stored, 2, PEPPERS)
    assert not keys.matches(keys.generate(), stored, 1, PEPPERS)


def test_a_key_under_a_pepper_that_is_gone_does_not_match() -> None:
    key = keys.generate()

    assert not keys.matches(key, keys.digest(key, PEPPERS[1]), 1, {2: PEPPERS[2]})


def test_the_secret_of_one_key_does_not_open_another_id() -> None:
    key, other = keys.generate(), keys.generate()
    forged = keys.ApiKey(other.id, key.secret)

    assert not keys.matches(forged, keys.digest(key, PEPPERS[1]), 1, PEPPERS)


def test_what_is_stored_does_not_hold_the_secret() -> None:
    key = keys.generate()

    assert key.secret.encode() not in keys.digest(key, PEPPERS[1])
    assert key.secret not in repr(key)


@pytest.mark.parametrize("pepper", ["", "too short"])
def test_without_a_real_pepper_nothing_starts(pepper: str) -> None:
    with pytest.raises(SettingsError, match="PULSESTREAM_KEY_PEPPER"):
        keys.peppers(Settings(key_pepper=SecretStr(pepper)))


def test_keys_of_the_pepper_before_go_on_working_and_new_ones_are_made_with_the_newest() -> None:
    first = keys.peppers(Settings(key_pepper=SecretStr("the first pepper")))
    old = keys.generate()
    stored = keys.digest(old, first[max(first)])

    both = keys.peppers(
        Settings(
            key_pepper=SecretStr("the second pepper"),
            key_pepper_version=2,
            key_pepper_previous=SecretStr("the first pepper"),
        )
    )
    alone = keys.peppers(Settings(key_pepper=SecretStr("the second pepper"), key_pepper_version=2))

    assert both == {1: b"the first pepper", 2: b"the second pepper"}
    assert keys.matches(old, stored, 1, both)
    assert not keys.matches(old, stored, 1, alone)


@pytest.mark.parametrize(("version", "previous"), [(1, "a pepper that is long enough"), (2, "too short")])
def test_a_pepper_before_that_cannot_be_is_refused(version: int, previous: str) -> None:
    settings = Settings(
        key_pepper=SecretStr("pepper of the tests"),
        key_pepper_version=version,
        key_pepper_previous=SecretStr(previous),
    )

    with pytest.raises(SettingsError, match="PULSESTREAM_KEY_PEPPER_PREVIOUS"):
        keys.peppers(settings)


def test_the_log_never_shows_a_key() -> None:
    key = keys.generate()

    masked = mask_secrets(None, "info", {"event": f"failed for {key.text}, sadly"})

    assert key.secret not in str(masked)
