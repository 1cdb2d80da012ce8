"""Why a hub failed, in plain words: what was seen, and what to do. No URL in full, since those of a CDN are signed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from conclave.visible_text import one_line
from conclave_weights.errors import DownloadFailed
from conclave_weights.transfer.hub_address import HubAddress, origin_of

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_LONGEST_WORDS = 300


def set_token(purpose: str = "") -> str:
    """The remedy where a token is missing or is not enough."""
    return f"set HF_TOKEN{purpose} (in a cluster, key HF_TOKEN of the Secret that huggingFace.secretName names)"


@contextmanager
def in_plain_words(what: str, address: HubAddress, *, has_token: bool) -> Iterator[None]:
    """Raises DownloadFailed for every failure of the library and of the network; `what` is the repository or a file."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise DownloadFailed(f"{what}: {_cause(error, address, has_token)}") from error
    except httpx2.TooManyRedirects as error:
        raise DownloadFailed(f"{what}: the hub redirects without end; use another endpoint") from error
    except httpx2.TransportError as error:
        raise DownloadFailed(f"{what}: {_no_answer(error, address)}") from error
    except (KeyError, TypeError, ValueError, AttributeError, httpx2.InvalidURL) as error:
        raise DownloadFailed(
            f"{what}: {address.origin.host} does not answer as a hub does ({type(error).__name__}: "
            f"{one_line(str(error))[:_LONGEST_WORDS]}); correct the endpoint"
        ) from error


def _no_answer(error: Exception, address: HubAddress) -> str:
    import httpx2

    request = getattr(error, "_request", None)
    host = request.url.netloc.decode() if request is not None else address.origin.host
    words = one_line(str(error))[:_LONGEST_WORDS]
    if isinstance(error, httpx2.ReadTimeout) and request is not None:
        words = f"nothing for {request.extensions['timeout']['read']:g} s"
    return f"no answer from {host}: {words}; check endpoint, DNS, proxy, NetworkPolicy and certificates"


def _cause(error: HfHubHTTPError, address: HubAddress, has_token: bool) -> str:
    from huggingface_hub import errors

    response = error.response
    status, host = response.status_code, response.request.url.host
    code = one_line(response.headers.get("X-Error-Code", ""))
    words = one_line(error.server_message or "")[:_LONGEST_WORDS].rstrip(".")
    said = f"{host} says {status}" + (f" {code}" if code else "") + (f" ({words})" if words else "")
    token = "the token of HF_TOKEN" if has_token else "no token was sent"
    another = set_token(" to a token that may read the repository")
    if origin_of(str(response.request.url)) != address.origin:
        if code or status == 401:
            return f"{said}: the hub redirects to this host, which gets no token; use {host} as the endpoint"
        return f"{said}: this host does not send what the hub links to; try again"
    if isinstance(error, errors.GatedRepoError):
        whose = "the token has no access" if has_token else token
        return f"{said}: the repository is gated and {whose}: accept its licence on {address.page}, and {another}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{said}: the repository has no commit {address.commit}; copy one from {address.page}/commits/main"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{said}: the file was listed and is now missing; the repository has changed: try again"
    if isinstance(error, errors.DisabledRepoError):
        return f"{said}: the hub has disabled the repository; use another one"
    is_absent = isinstance(error, errors.RepositoryNotFoundError)
    if status == 401 and has_token and not is_absent:
        return f"{said}: the hub refuses the token: {another}"
    if status == 401 or is_absent:
        whose = "the token may not read it" if has_token else token
        return (
            f"{said}: there is no repository {address.repository}, or it is private and {whose}; correct the "
            f"repository, or {another}"
        )
    if status == 403:
        return (
            f"{said}: access is refused ({token}); look at {address.page}, accept its licence where it is asked for, "
            f"and {another}"
        )
    if status == 404:
        return f"{said}: there is no such repository, revision or file; look at {address.page}, or correct the endpoint"
    if status == 416:
        return f"{said}: the file is shorter than the hub lists; try again, or use another endpoint"
    if status == 429:
        remedy = "" if has_token else f", or {set_token()}"
        return f"{said}: too many requests from this address or token; try again later{remedy}"
    return f"{said}; try again"
