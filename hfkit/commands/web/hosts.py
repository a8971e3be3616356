"""Which addresses only this machine reaches."""

import ipaddress


def is_this_machine(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
