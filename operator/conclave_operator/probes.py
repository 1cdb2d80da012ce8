"""/healthz, /readyz and /metrics of the operator.

Healthy means fresh, not merely alive: the leader hears from every watch, a standby gets answers about the Lease.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

Check = Callable[[], str]
"""Empty where all is well, else what is wrong."""


def stale_watch(ages_s: Iterable[tuple[str, float]], lag_s: float, allowed_s: float) -> str:
    """Which watch has been silent, or behind, for longer than allowed; empty where none has."""
    for resource, age_s in ages_s:
        if age_s > allowed_s:
            return f"the watch of {resource} has been silent for {age_s:.0f} s, expected at most {allowed_s:.0f}"
    if lag_s > allowed_s:
        return f"the watch of modeldeployments is {lag_s:.0f} s behind a list, expected at most {allowed_s:.0f}"
    return ""


@asynccontextmanager
async def serve_probes(
    port: int, registry: CollectorRegistry, is_healthy: Check, is_ready: Check
) -> AsyncIterator[int]:
    """Serves on all addresses while the block runs; yields the port, which the system chooses for 0."""

    def answering(check: Check) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

        return answer

    async def metrics(_: web.Request) -> web.Response:
        text = generate_latest(registry).decode()
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", answering(is_healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", answering(is_ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, port=port)
        await site.start()
        addresses = sorted(runner.addresses, key=lambda address: ":" in address[0])  # for 0 each family has its own
        yield int(addresses[0][1])
    finally:
        await runner.cleanup()
