"""Prometheus metrics of the operator, in a registry of its own; served by `probes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class Metrics:
    """What a reconcile counts; gauges that are asked when scraped are given as functions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.duration_s = Histogram(
            "conclave_reconcile_duration_seconds",
            "Seconds of one reconcile, its writes included.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.results = Counter(
            "conclave_reconciles",
            "Reconciles by result: ok, refused, failed, internal_error.",
            ["result"],
            registry=self.registry,
        )
        self.unchanged = Counter(
            "conclave_unchanged",
            "Looks at an object that needed no reconcile, since nothing that its last one came from has changed.",
            registry=self.registry,
        )
        self.writes = Counter("conclave_writes", "Writes by verb and kind.", ["verb", "kind"], registry=self.registry)

    def watch(
        self,
        queue: Callable[[], int],
        fleet: Callable[[], int],
        is_leader: Callable[[], bool],
        lag_s: Callable[[], float],
    ) -> None:
        """Gauges of the process."""
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("conclave_queue_length", "ModelDeployments that wait for a reconcile.", queue),
            ("conclave_model_deployments", "ModelDeployments that are known.", fleet),
            ("conclave_leader", "1 while this process holds the Lease.", is_leader),
            ("conclave_watch_lag_seconds", "Seconds that the watch of ModelDeployments is behind a list.", lag_s),
        )
        for name, text, read in gauges:
            Gauge(name, text, registry=self.registry).set_function(read)

    def watch_skipped(self, skipped: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Objects that a cache could not read, by resource."""
        self.registry.register(_Skipped(skipped))

    def watch_ages(self, ages_s: Callable[[], Iterable[tuple[str, float]]]) -> None:
        """Seconds since each cache last heard from the API server."""
        self.registry.register(_Ages(ages_s))


class _Ages:
    def __init__(self, ages_s: Callable[[], Iterable[tuple[str, float]]]) -> None:
        self._ages_s = ages_s

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "conclave_watch_age_seconds",
            "Seconds since the API server was last heard on a resource.",
            labels=["resource"],
        )
        for resource, age_s in self._ages_s():
            family.add_metric([resource], age_s)
        yield family


class _Skipped:
    def __init__(self, skipped: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._skipped = skipped

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "conclave_skipped_objects",
            "Versions of objects that could not be read and count as absent, or whose change could not be passed on.",
            labels=["resource"],
        )
        for resource, count in self._skipped():
            family.add_metric([resource], count)
        yield family
