"""Which addresses are of the public internet: asking them tells nothing of the broker's network. Pure."""

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What is handed out to hosts of the internet; all else of IPv6 has other uses, or none yet.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: An IPv4 address in the last four bytes: compatible, mapped, translated (RFC 4291 and 2765); and gateways to
#: IPv4 that every network may have (NAT64): hosts without IPv4 see all of it there.
_EMBEDDING = [
    ipaddress.IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
]
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
#: ISATAP: an IPv4 address behind these in the lower half, in whatever network.
_ISATAP = (0x5EFE, 0x200_5EFE)
#: Public by their numbers, and yet of the network that a host stands in.
_LOCAL_USE = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "168.63.129.16/32",  # Azure's virtual machines are configured from there
            "192.0.0.0/24",  # protocols; Oracle's virtual machines are configured from there
            "192.88.99.0/24",  # the nearest relay of 6to4
        ),
    )
)


def is_public(address: Address) -> bool:
    """Tell whether an address, and each one embedded in it, is of the public internet."""
    return all(_is_public_itself(one) for one in (address, *_embedded(address)))


def _is_public_itself(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        is_of_here = any(address in network for network in _LOCAL_USE)
        return address.is_global and not address.is_multicast and not address.is_reserved and not is_of_here
    if address in _SIX_TO_FOUR or any(address in network for network in _EMBEDDING):
        return True  # what is embedded decides; older Pythons call no address of 6to4 global
    return address.is_global and address in _GLOBAL_UNICAST


def _embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return
    number = int(address)
    last = ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if any(address in network for network in _EMBEDDING):
        yield last
    if address in _SIX_TO_FOUR:
        yield ipaddress.IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield last
