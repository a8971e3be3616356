"""The host that a request names, and which addresses only this machine reaches.

Starlette's TrustedHostMiddleware is not used: it has no IPv6 addresses, and no rule for all addresses.
"""

import ipaddress
import re

HOST = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::\d{1,5})?")


def host_of(header: str) -> str:
    """Return the host in a Host header, without its port and in lower case; "" if the header is malformed."""
    found = HOST.fullmatch(header)
    return (found["six"] or found["name"] or "").lower() if found else ""


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which cannot be rebound to another one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_this_machine(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
