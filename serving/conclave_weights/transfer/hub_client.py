"""The HTTP client of everything that a download asks of a hub: whom it tells the token, and how long it waits.

`hub.py` gives it to the official library, whose own client sends some requests without a time-out, follows links to
other hosts with the token, and sleeps as long as a server asks it to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from conclave_weights.errors import DownloadFailed
from conclave_weights.transfer.hub_address import HubAddress, origin_of
from conclave_weights.transfer.hub_failures import set_token

if TYPE_CHECKING:
    from httpx2 import Client, Request, Response

PATIENCE_S = 60
"""A hub that asks to wait longer is an error: a pod that sleeps would tell nobody."""
_CONNECT_S = 10.0
_WINDOW = re.compile("t=([0-9]{1,9})")


class HubClient:
    """For one address; `silence_s` after the last byte a connection counts as broken."""

    def __init__(self, address: HubAddress, silence_s: float, *, has_token: bool) -> None:
        self._address, self._silence_s, self._has_token = address, silence_s, has_token

    def make(self) -> Client:
        """A client whose requests and answers go through this object, each hop of a redirect too."""
        import httpx2

        return httpx2.Client(
            follow_redirects=True,
            event_hooks={"request": [self.before_request], "response": [self.after_response]},
        )

    def before_request(self, request: Request) -> None:
        """Takes the token from requests to others. Raises DownloadFailed where TLS would be left."""
        timeouts = dict.fromkeys(("read", "write", "pool"), self._silence_s)
        request.extensions["timeout"] = {"connect": min(_CONNECT_S, self._silence_s), **timeouts}
        own, asked = self._address.origin, origin_of(str(request.url))
        is_upgrade = own.port == 80 and asked == own._replace(scheme="https", port=443)
        if asked != own and not is_upgrade:
            request.headers.pop("Authorization", None)
        if own.scheme == "https" and asked.scheme != "https":
            raise DownloadFailed(
                f"{self._address.where}: the hub redirects to {asked.scheme}://{asked.host}, expected https; use "
                "another endpoint"
            )

    def after_response(self, response: Response) -> None:
        """Raises DownloadFailed where the hub asks to wait long: with Retry-After, or with a window of its limit."""
        if response.status_code not in (429, 503):
            return
        header = response.headers.get("Retry-After", "")
        window = _WINDOW.search(response.headers.get("RateLimit", ""))
        wait_s = int(header) if header.isdecimal() and len(header) < 10 else int(window[1]) if window else 0
        if wait_s > PATIENCE_S:
            raise DownloadFailed(
                f"{self._address.where}: {response.request.url.host} says {response.status_code} and asks to wait "
                f"{wait_s} s: too many requests from this address or token; try again then"
                + ("" if self._has_token else f", or {set_token()}")
            )
