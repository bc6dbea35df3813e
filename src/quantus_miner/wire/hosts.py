"""Which requests may be meant for this miner: Host and Origin. No I/O.

A web page can make a browser send requests to the miner, and read the replies if the page's own host name leads to the
miner's address (DNS rebinding). The browser then says so in these headers; other clients have no reason to lie.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCAL_NAMES: Final = frozenset({"localhost"})


def misdirected(hosts: Iterable[str], names: frozenset[str]) -> str | None:
    """Return what is wrong with a request's Host headers, None if nothing is.

    IP addresses are right, since no page can be at an address that is not its own; so are ``names``, and no Host at
    all, since browsers always send one.
    """
    for host in hosts:
        match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?", host)
        name = match[1].lower().removesuffix(".") if match else None
        if name is None or (name and name not in names and not _is_address(name)):
            allowed = ", ".join(["IP addresses", *sorted(names)])
            return f"host {host[:80]!r} is not a name of this miner; allowed: {allowed} (--allowed-hosts adds names)"
    return None


def from_other_page(host: str, origins: Iterable[str], fetch_sites: Iterable[str]) -> str | None:
    """Return why a request comes from a web page that is not at ``host``, None if it does not.

    Browsers name the page's origin in each POST; where they hide it, ``Origin`` is ``null``. ``fetch_sites``: values
    of Sec-Fetch-Site, which is there for other methods too.
    """
    own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
    for origin in origins:
        if origin.lower() not in own:
            return f"requests of web pages are refused (Origin: {origin[:80]!r})"
    for site in fetch_sites:
        if site.lower() not in ("same-origin", "none"):
            return f"requests of web pages are refused (Sec-Fetch-Site: {site[:80]!r})"
    return None


def parse_names(text: str) -> tuple[str, ...]:
    """Return the host names of a comma list, in lower case. Raises ValueError that says what is allowed."""
    names = tuple(name.strip().lower().removesuffix(".") for name in text.split(","))
    if not all(len(name) <= 253 and re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) for name in names):
        raise ValueError("host names without ports, such as rig1.lan, separated by commas; IP addresses always are")
    return names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
