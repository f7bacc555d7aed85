"""Addresses that tenants name: which are taken apart how, and which are never reached."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsestream.core.errors import SettingsError
from pulsestream.core.targets import Target, TargetError, is_allowed, is_public, parse_networks, parse_target

SPECIAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1", "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "3fff::1",
    "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("text", SPECIAL)
def test_no_private_or_special_address_is_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"]
)
def test_others_are(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_what_pythons_own_register_calls_private_or_multicast_is_never_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


def test_an_operator_allows_networks_on_purpose() -> None:
    networks = parse_networks("10.1.0.0/16, ::1", "SETTING")

    assert is_allowed(ipaddress.ip_address("10.1.2.3"), networks)
    assert is_allowed(ipaddress.ip_address("::1"), networks)
    assert not is_allowed(ipaddress.ip_address("10.2.0.1"), networks)
    assert not is_allowed(ipaddress.ip_address("127.0.0.1"), networks)
    assert parse_networks(" ", "SETTING") == ()
    with pytest.raises(SettingsError, match=r"SETTING: 10\.1\.0\.1/16 has host bits set"):
        parse_networks("10.1.0.1/16", "SETTING")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/")),
        ("http://Example.COM:8080/a?b=c", Target("http", "example.com", 8080, "/a?b=c")),
        ("https://[2606:4700::1111]:8443/x", Target("https", "2606:4700::1111", 8443, "/x")),
        ("https://[::1]?q", Target("https", "::1", 443, "/?q")),
        ("https://1.2.3.4/", Target("https", "1.2.3.4", 443, "/")),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com", "file:///etc/passwd", "gopher://x", "https://", "https:///x",
        "https://user:secret@example.com/", "https://example.com@127.0.0.1/", "https://example.com/#x",
        "https://exa mple.com/", "https://example.com/\r\nHost: x", "https://example.com\\@127.0.0.1/", "https://exämple.com",
        "https://example.com:0/", "https://example.com:99999/", "https://example.com:x/", "https://[::1/", "https://%31/",
        "https://[fe80::1%25eth0]/", "https://e.com/" + "x" * 2000,
        "https://a..b/", "https://.a/", "https://-a.b/", "https://a-/", f"https://{'a' * 64}.com/",
        f"https://{'a.' * 127}com/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(TargetError):
        parse_target(url)


@given(st.text(max_size=100))
def test_nothing_else_than_a_target_error_comes_of_any_text(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.com:{text}"):
        try:
            target = parse_target(url)
        except TargetError:
            continue
        assert target.path.startswith("/")
        assert ":" in target.host or target.host.encode("idna")  # as a look-up does
        assert "\r" not in url
