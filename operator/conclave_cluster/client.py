"""Plain asynchronous HTTP to the API server over `kubernetes.aio`'s configuration and transport.

Used by the cache, the cluster and the Lease. Errors leave as `RequestError`, which carries an `ApiFailure`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp.http_exceptions import LineTooLong
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.kube_config import (
    KUBE_CONFIG_DEFAULT_LOCATION,
    ConfigNode,
    KubeConfigLoader,
    KubeConfigMerger,
)

from conclave import __version__
from conclave.errors import EnvironmentUnfit
from conclave.kubernetes.failures import UNREACHABLE, ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.visible_text import one_line
from conclave_cluster.json_answers import read_object
from conclave_cluster.resources import Resource

READ_TIMEOUT_S = 30.0
WRITE_TIMEOUT_S = 4.0
"""Shorter than what a Lease's margin leaves (lease.py), so that no write outlives the leadership it began in."""
WATCH_SILENCE_S = 90.0
"""API servers send a bookmark every minute for most resources; a watch that is silent for longer is asked for anew."""
TLS_GRACE_S = 0.25
"""aiohttp's documented grace ("Graceful Shutdown") in which TLS connections close after their session."""

LONGEST_MESSAGE = 2048
"""Characters of the words that a request was refused with."""

PAGE = "200"
"""Objects of one answer of `list_all`."""

APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

UNREADABLE = (ConfigException, OSError, yaml.YAMLError, ValueError)
"""What tells by itself what is wrong with a kubeconfig."""
MISSHAPEN = (TypeError, AttributeError, LookupError, RecursionError)
"""What the library stumbles into where the file is YAML and no kubeconfig: it checks little before it reads on."""


class RequestError(Exception):
    """The API server refused a request or did not answer."""

    def __init__(self, failure: ApiFailure) -> None:
        super().__init__(f"{failure.verb} {failure.resource}: {failure.code} {failure.reason}: {failure.message}")
        self.failure = failure


async def load_configuration(kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """The pod's own service account where there is one and no kubeconfig is named, else the user's kubeconfig.

    Raises EnvironmentUnfit where there is neither, or the kubeconfig names no cluster or gives no credentials.
    """
    configuration = Configuration()
    if kubeconfig is None:
        with suppress(ConfigException):
            config.load_incluster_config(client_configuration=configuration)
            return configuration
    else:
        _require_file(kubeconfig)
    file = kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION
    try:
        files, loader = _read_kubeconfig(file, context)
        await loader.load_and_set(configuration)
        _require_credentials(files, loader.current_context["context"].get("user"), configuration)
    except UNREADABLE as error:
        raise EnvironmentUnfit(
            f"no cluster: {file}: {' '.join(str(error).split())}. Expected a service account inside a pod, or a "
            "kubeconfig (--kubeconfig, $KUBECONFIG or ~/.kube/config) whose current context names a cluster."
        ) from error
    except MISSHAPEN as error:
        raise EnvironmentUnfit(
            f"no cluster: {file} is not a kubeconfig: expected clusters, users, contexts and "
            "a current-context, as `kubectl config view` prints them"
        ) from error
    return configuration


def _require_file(kubeconfig: str) -> None:
    if not Path(kubeconfig).is_file():
        raise EnvironmentUnfit(f"no cluster: the kubeconfig {kubeconfig} does not exist; name one that does")


def _require_credentials(files: ConfigNode, user: str | None, configuration: Configuration) -> None:
    """A credential plugin that fails is only logged by the library, which then asks as nobody."""
    found = files["users"].get_with_name(user, safe=True)
    plugin = found and found["user"].safe_get("exec")
    if not plugin or configuration.api_key or configuration.cert_file:
        return
    command = plugin["command"]
    remedy = "log in with it again" if shutil.which(command) else "it is not on PATH: install it"
    raise EnvironmentUnfit(f"no cluster: {command}, the kubeconfig's credential plugin, gave no credentials; {remedy}")


def current_namespace(kubeconfig: str | None = None, context: str | None = None) -> str:
    """The namespace of a kubeconfig's context; `default` where it names none."""
    try:
        chosen = _read_kubeconfig(kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION, context)[1].current_context["context"]
        return str(chosen.get("namespace") or "default")
    except (*UNREADABLE, *MISSHAPEN):
        return "default"


def _read_kubeconfig(file: str, context: str | None) -> tuple[ConfigNode, KubeConfigLoader]:
    """Raises what is in UNREADABLE and MISSHAPEN."""
    files = KubeConfigMerger(file).config
    return files, KubeConfigLoader(files, context, config_base_path=None)


class Client:
    """Requests to one API server."""

    def __init__(self, configuration: Configuration) -> None:
        self._api = ApiClient(configuration)
        self._api.user_agent = f"conclave/{__version__}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()
        await asyncio.sleep(TLS_GRACE_S)

    async def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        return await self._request("get", "GET", resource, namespace, name)

    async def list(self, resource: Resource, namespace: str = "", **query: str) -> JsonObject:
        page = await self._request("list", "GET", resource, namespace, query=query)
        if not isinstance(page.get("items"), list) or not isinstance(page.get("metadata"), dict):
            raise _Failed("list", resource, namespace, "").by_silence(ValueError("the answer is no list"))
        return page

    async def list_all(self, resource: Resource, namespace: str = "", **query: str) -> AsyncIterator[JsonObject]:
        """Each object of a list that is read in pages."""
        while True:
            page = await self.list(resource, namespace, limit=PAGE, **query)
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def create(self, manifest: JsonObject, resource: Resource) -> JsonObject:
        namespace = manifest["metadata"].get("namespace", "")
        return await self._request("create", "POST", resource, namespace, body=manifest)

    async def replace(self, manifest: JsonObject, resource: Resource) -> JsonObject:
        metadata = manifest["metadata"]
        return await self._request(
            "update", "PUT", resource, metadata.get("namespace", ""), metadata["name"], body=manifest
        )

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: object,
        content_type: str,
        *,
        subresource: str = "",
        **query: str,
    ) -> JsonObject:
        return await self._request(
            "patch",
            "PATCH",
            resource,
            namespace,
            name,
            subresource=subresource,
            body=body,
            content_type=content_type,
            query=query,
        )

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Deletes the object with this uid only; its dependants follow in the background."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._request("delete", "DELETE", resource, namespace, name, body=options)

    async def open_api(self, group: str, version: str) -> JsonObject:
        """The OpenAPI v3 document of a group, which every authenticated user may read."""
        absent = Resource(group, version, "", "openapi", namespaced=False)
        return await self._send("GET", f"/openapi/v3/apis/{group}/{version}", _Failed("get", absent, "", ""), {})

    async def watch(
        self, resource: Resource, namespace: str, accepted: Callable[[], None], **query: str
    ) -> AsyncIterator[JsonObject]:
        """Watch events until the server ends the stream or falls silent; the caller resumes.

        Raises RequestError with code 410 where it cannot go on from this version, as behind a line that is too long.
        Calls `accepted` once the server has taken the request. Silence alone means little: a resource without a watch
        cache (events) has bookmarks only as often as etcd is told to send them, by itself every 10 minutes.
        """
        failed = _Failed("watch", resource, namespace, "")
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SILENCE_S)
        try:
            response = await self._exchange("GET", resource.path(namespace), query, None, "", timeout)
            try:
                if response.status != 200:
                    raise failed.by_answer(response.status, await response.read())
                accepted()
                async for line in response.content:
                    yield read_object(line)
            except (ValueError, LineTooLong) as error:
                raise RequestError(failed.by_silence(error).failure.model_copy(update={"code": 410})) from error
            finally:
                response.close()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise failed.by_silence(error) from error

    async def _request(
        self,
        verb: str,
        method: str,
        resource: Resource,
        namespace: str,
        name: str = "",
        *,
        subresource: str = "",
        body: object = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        path = resource.path(namespace if resource.namespaced else "", name, subresource)
        failed = _Failed(verb, resource, namespace, name, subresource)
        return await self._send(method, path, failed, query or {}, body, content_type)

    async def _send(
        self,
        method: str,
        path: str,
        failed: _Failed,
        query: Mapping[str, str],
        body: object = None,
        content_type: str = "",
    ) -> JsonObject:
        timeout = aiohttp.ClientTimeout(total=READ_TIMEOUT_S if method == "GET" else WRITE_TIMEOUT_S)
        try:
            response = await self._exchange(method, path, query, body, content_type, timeout)
            answer = await response.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise failed.by_silence(error) from error
        if response.status >= 300:
            raise failed.by_answer(response.status, answer)
        try:
            return read_object(answer)
        except ValueError as error:
            # Seen of Kubernetes 1.36: 200 and no body for the OpenAPI document of a group whose last CRD is going.
            raise failed.by_silence(error) from error

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object,
        content_type: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, per phase of a request
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if body is not None else {})
        # Not given the body: it would walk through all of it in search of what is no JSON.
        method, url, headers, _, form = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            auth_settings=["BearerToken"],
        )
        reply = await self._api.call_api(method, url, headers, body, form, _request_timeout=timeout)
        response: aiohttp.ClientResponse = reply.response
        return response


class _Failed:
    """Makes a `RequestError` of one request's outcome."""

    def __init__(self, verb: str, resource: Resource, namespace: str, name: str, subresource: str = "") -> None:
        self._request: dict[str, Any] = {
            "verb": verb,
            "group": resource.group,
            "resource": f"{resource.plural}/{subresource}" if subresource else resource.plural,
            "namespace": namespace,
            "name": name,
        }

    def by_answer(self, code: int, answer: bytes) -> RequestError:
        try:
            status = read_object(answer)
            reason, message = status.get("reason") or "", status.get("message") or ""
        except ValueError:
            reason, message = "", answer[:200].decode(errors="replace")
        return RequestError(
            ApiFailure(**self._request, code=code, reason=str(reason or f"HTTP{code}"), message=_shown(message))
        )

    def by_silence(self, error: Exception) -> RequestError:
        what = str(error) or type(error).__name__
        return RequestError(ApiFailure(**self._request, code=0, reason=UNREACHABLE, message=_shown(what)))


def _shown(message: object) -> str:
    """As a condition and the log may have it: an admission webhook, or what stands in for the server, wrote it."""
    return one_line(str(message), LONGEST_MESSAGE)


def server_address(configuration: Configuration) -> str:
    """What to name the cluster by in a message."""
    return str(configuration.host)
