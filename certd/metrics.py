"""What the daemon counts and times, as module-level objects that `web/` exposes."""

from prometheus_client import Counter, Gauge, Histogram

STORE_SECONDS = Histogram(
    "certd_store_seconds",
    "Seconds from the call of a read or a write to its end, waiting included.",
    ["kind", "name"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
STORE_COMMITS = Counter(
    "certd_store_commits", "Transactions that were committed; one may hold the works of many callers."
)
STORE_FAILED_COMMITS = Counter("certd_store_failed_commits", "Transactions that the database refused as a whole.")
STORE_RETRIES = Counter(
    "certd_store_retries", "Works that ran again after a serialization failure or a deadlock.", ["name"]
)
DOWNLOADS = Counter("certd_downloads", "Answers to devices, by HTTP status.", ["status"])
CALLS = Counter("certd_grpc_calls", "Calls that ended, by method and status code.", ["method", "code"])
STREAMS = Gauge("certd_grpc_streams", "Streams that are open, of watches, of health and of reflection.")
CALL_SECONDS = Histogram("certd_grpc_call_seconds", "Seconds from the arrival of a call to its answer.", ["method"])
DELIVERIES = Counter(
    "certd_deliveries",
    "Tries of events for subscriptions, by kind and by what the target did: taken, refused, away.",
    ["kind", "outcome"],
)
OCSP_ANSWERS = Counter(
    "certd_ocsp_answers",
    "Answers to OCSP requests, by where they came from: memory, stored, signed, or refused without a signature.",
    ["source"],
)
FAILED_DELIVERIES = Counter("certd_failed_deliveries", "Events that were given up for a subscription.")
