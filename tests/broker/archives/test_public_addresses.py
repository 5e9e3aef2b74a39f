"""Which addresses are public."""

import ipaddress

import pytest

from torchrelay.broker.archives.public_addresses import is_public

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192", "168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", [*PRIVATE, "192.88.99.1", "198.18.0.1", "192.0.2.1"])
def test_addresses_of_networks_of_ones_own_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1",
     "2001:db8::1", "2001::1", "64:ff9b:1::808:808", "100::1", "4000::1"],
)  # fmt: skip
def test_other_uses_of_ipv6_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("inner", PRIVATE)
def test_a_private_address_is_found_inside_of_another(inner: str) -> None:
    number = int(ipaddress.IPv4Address(inner))
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)
    isatap = ipaddress.IPv6Address((0x26064700 << 96) | (0x5EFE << 32) | number)
    prefixes = ("64:ff9b::", "::", "::ffff:", "::ffff:0:")
    embedding = [ipaddress.IPv6Address(f"{prefix}{inner}") for prefix in prefixes]
    for address in (*embedding, six_to_four, isatap):
        assert not is_public(address), address


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"],
)
def test_public_addresses_are_public_also_by_way_of_a_translator(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
