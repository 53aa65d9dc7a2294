"""How plain numbers become Prometheus metrics: one line per family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from farebox_worker.meters import Histogram

Labels = Sequence[str]
Values = Mapping[str, float] | Mapping[tuple[str, ...], float] | Mapping[tuple[str, str], float]
_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)


def counter(name: str, about: str, labels: Labels, values: Values) -> Metric:
    """A number that only grows; `name` ends in `_total`."""
    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def gauge(name: str, about: str, labels: Labels, values: Values) -> Metric:
    """A number that goes up and down, by label values."""
    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def one(name: str, about: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, about, value=value)


def total(name: str, about: str, value: float) -> Metric:
    """A counter without labels."""
    return CounterMetricFamily(name, about, value=value)


def histogram(name: str, about: str, labels: Labels, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """A distribution, by label values."""
    family = HistogramMetricFamily(name, about, labels=labels)
    for names, found in values:
        family.add_metric(names, list(found.buckets()), found.total)
    return family


def _filled(family: _Family, values: Values) -> _Family:
    for names, value in values.items():
        family.add_metric([names] if isinstance(names, str) else list(names), value)
    return family
