"""The commented certd.toml that `certd init` writes; what stands in braces is filled in by key path."""

from typing import Final

TEMPLATE: Final = """\
# Configuration of certd. Unknown keys stop the start; `certd check-config` tells what is wrong.
# Relative paths start at this file's folder. Secrets stand in files of their own, never here.

[listen]
# The API: gRPC over mutual TLS.
grpc = {listen.grpc}
# Where those enroll, by codes, who have no certificate yet: gRPC over TLS, nothing else than that.
enrollment = {listen.enrollment}
# Authority certificates and health, plain HTTP.
http = {listen.http}
# Prometheus metrics.
metrics = {listen.metrics}
# The API for callers with tokens of the issuers in [[oidc]], over TLS without client certificates.
# bearer = "0.0.0.0:8445"
# Downloads by devices: HTTPS with a client certificate or a download code, see certctl managed create-download-code.
# devices = "0.0.0.0:8446"

[database]
# SQLite, one daemon; or PostgreSQL: "postgresql+psycopg://certd@db.example.internal/certd?passfile=/etc/certd/pgpass"
url = {database.url}

[token]
# The PKCS#11 module and the token that keeps authority keys and wrapping keys.
module = {token.module}
label = {token.label}
pin_file = {token.pin_file}
# The configuration of SoftHSM, where the module is SoftHSM's.
{token.softhsm_conf}
# Socket of a token process under its own user (`certd token serve`). Without it the daemon starts the token process.
# socket = "/run/certd/token.sock"
# Users that `certd token serve` answers to, beside its own.
# allowed_users = ["certd"]
# Private keys that may leave the token process in any minute.
exports_per_minute = 600
# Private keys that consumers may lease in any minute.
leases_per_minute = 6000
# PEM of the roots of the system, by which the token process knows consumers. Default: beside the PIN file. certd init
# writes it; a token process under its own user has its own, see certd token trust-root.
# system_roots = "/var/lib/certd/system-roots.pem"
# Folder in which the token process writes down every use of a key, see certd audit verify. It belongs to that process's
# user alone. Default: token-journal beside the PIN file.
# journal = "/var/lib/certd/token-journal"
# PEM of an X25519 public key. Wrapping keys that are made from now on are also kept encrypted to it, so that certd
# recover-wrapping-key puts them into another token when this one is lost. Whoever has its private half and the database
# can then open every sealed private key: keep it offline. Default: wrapping keys are in the token and nowhere else.
# recovery_public_key = "/etc/certd/recovery.pem"

[prepare]
# Processes that check what strangers ask for and build what will be signed, away from the daemon and out of reach of
# anything worth stealing. Default: one for each core but one, 4 at most. 0: the daemon does it itself.
# processes = 1
# Keys that anybody can use, among them Debian's of 2006 to 2008: the file `blocklist.dat` that `badkeys --update-bl`
# fetches. Keys that can be broken by their form alone are refused without it.
# known_weak_keys = "/var/lib/certd/blocklist.dat"

[tls]
# The server certificate of the API and its key, written by `certd init`.
certificate = {tls.certificate}
private_key = {tls.private_key}
# The SPIFFE trust domain of callers' identities. It stands in every credential: choose it once.
trust_domain = {tls.trust_domain}

[web]
# Where others reach `listen.http`. Certificates name it as the place of CRLs, OCSP and their issuer's certificate.
# base_url = "http://pki.example.internal"

# People and CI jobs may call with tokens of issuers of OpenID Connect, on listen.bearer. A token's caller is
# spiffe://TRUST-DOMAIN/oidc/NAME/CLAIM, and may do what grants to that allow.
# [[oidc]]
# name = "ci"
# issuer = "https://gitlab.example.internal"
# audience = "certd.example.internal"
# jwks_url = "https://gitlab.example.internal/oauth/discovery/keys"
# algorithms = ["RS256"]
# principal_claim = "sub"
# Roots that vouch for jwks_url, where the machine's do not.
# ca_file = "/etc/certd/gitlab-root.pem"
# Claims that must have just these values. With principal_claim = "email" also: email_verified = true
# required_claims = { namespace_path = "infrastructure" }

[notify]
# Networks to which webhooks of subscriptions may be sent, beside the public ones: whoever may make a subscription
# reaches what listens there.
# allowed_networks = ["10.20.0.0/16"]
# Seconds after which consumers that do not serve a new version are told to be late; never later than a tenth of its
# lifetime.
deployment_late = 86400

# The mail server of subscriptions, over TLS from its first octet ("tls", port 465) or by STARTTLS (port 587).
# [notify.smtp]
# host = "mail.example.internal"
# port = 587
# security = "starttls"
# from = "certd@example.internal"
# username = "certd"
# password_file = "/etc/certd/mail-password"
# Roots that vouch for the mail server, where the machine's do not.
# ca_file = "/etc/certd/mail-root.pem"

[limits]
# Calls worked on at once, and calls that may wait for their turn; more are refused.
concurrent_calls = 32
maximum_waiting_calls = 1024
# Streams at once to a port of the API, of watches and of health (1 to 16384); more are refused.
maximum_watchers = 1024
# Calls of one caller in a second, and at once after a pause; more are refused. Quotas of tenants come on top.
calls_per_second = 2000
calls_burst = 4000
# Connections at once to a port of the API, from all addresses; more are closed.
maximum_connections = 4096
# The daemon's threads take turns, which is quicker on one processor; its children use the others. false: on any.
one_processor = true
# Certificates on their way to the token and back (16 to 65536); more are refused.
signing_queue = 1024
# Bytes of a request (65536 to 67108864).
maximum_message_bytes = 16777216
# What one request may hold. These are the highest values; lower ones refuse more.
maximum_csr_bytes = 32768
maximum_names = 100
maximum_labels = 50
# certctl sends batches of 100 and asks for pages of 500.
maximum_batch_items = 1000
maximum_page_size = 1000
maximum_passphrase_bytes = 1024

[audit]
# A key in the token signs how far the record of events goes: each time so many seconds have passed and something
# happened (60 to 86400). The event checkpoint.signed of the tenant `default` carries it to webhooks.
checkpoint_interval = 3600
# File to which each checkpoint is appended as a line of JSON. Keep it, or a copy, where the daemon cannot change it;
# certd audit verify --checkpoint compares the record with it.
# checkpoint_file = "/var/log/certd/checkpoints.jsonl"

[log]
# debug, info, warning or error, of daemon and token process; the daemon reads it again on SIGHUP.
level = "info"
# text or json.
format = "text"
"""
