"""One channel to a server that goes away and comes back: prints how calls end, each change once."""

import os
import sys
import time

# Nobody answers DNS here: names are in the hosts file, and gRPC's own resolver asks all the same.
os.environ["GRPC_DNS_RESOLVER"] = "native"

import grpc  # noqa: E402

channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/interop.Orders/Unary")


def outcome():
    try:
        call(b"", timeout=5)
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


print(f"1 {outcome()}", flush=True)
last = "OK"
while last == "OK":
    time.sleep(0.02)
    last = outcome()
print(last, flush=True)
deadline = time.monotonic() + 8
while last != "OK" and time.monotonic() < deadline:
    time.sleep(0.02)
    last = outcome()
print(f"again {last}", flush=True)
