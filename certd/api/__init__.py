"""gRPC in: convert, call one service, convert back."""

import os

# Children are spawned, never forked; grpc's support for forks only makes them hang. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
