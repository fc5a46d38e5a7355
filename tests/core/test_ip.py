"""Addresses: the order and the text of contracts §2, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meshctl.core import ip


def test_the_order_is_version_then_address_then_prefix() -> None:
    nets = [ip_network(n) for n in ("fd00::/8", "10.0.0.0/8", "9.0.0.0/8", "10.0.0.0/16", "10.0.0.0/8", "::/0")]
    assert [str(n) for n in ip.sort_nets(nets)] == ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "::/0", "fd00::/8"]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("::ffff:c000:0201", "::ffff:192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_the_text_is_that_of_rfc_5952(written: str, text: str) -> None:
    assert ip.addr_text(ip_address(written)) == text


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("VPN.Example.COM.", "vpn.example.com:1"),
        ("192.0.2.1", "192.0.2.1:1"),
        ("2001:DB8::1", "[2001:db8::1]:1"),
    ],
)
def test_an_endpoint_has_one_form(host: str, text: str) -> None:
    assert str(ip.Endpoint.of(host, 1)) == text


def test_inside_is_the_same_as_python_says() -> None:
    nets = [ip_network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "11.0.0.0/8", "0.0.0.0/0", "0.0.0.0/8")]
    for a in nets:
        for b in nets:
            assert ip.inside(a, b) == a.subnet_of(b)  # type: ignore[arg-type]
            assert ip.overlap(a, b) == a.overlaps(b)


def test_versions_never_overlap() -> None:
    assert not ip.overlap(ip_network("0.0.0.0/0"), ip_network("::/0"))


@pytest.mark.parametrize(
    "text", ["10.0.0.0/255.0.0.0", "10.0.0.0/33", "fe80::1%eth0/64", "10.0.0.0/ 8", "x", "", "10/8"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="not a network"):
        ip.parse_net(text)


@pytest.mark.parametrize("text", ["10.0.0.1/32", "x", "", "fe80::1%eth0", "010.0.0.1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an IP address|has a zone"):
        ip.parse_addr(text)
