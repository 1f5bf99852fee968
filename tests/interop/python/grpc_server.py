"""gRPC server of the interop tests. Messages are bytes: nothing is generated."""

import json
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

# The ids of calls that their client gave up.
given_up = set()


def watch_end(context):
    """Is set, and the call noted, when the client gives it up."""
    ended = threading.Event()

    def note():
        given_up.add(dict(context.invocation_metadata()).get("x-call"))
        ended.set()

    context.add_callback(note)
    return ended


def unary(request, context):
    metadata = {key: value for key, value in context.invocation_metadata()}
    context.send_initial_metadata((("x-initial", "first"), ("x-binary-bin", b"\x00\xff\x01")))
    context.set_trailing_metadata((("x-trailing", "last"),))
    if request == b"metadata":
        seen = {key: value.hex() if isinstance(value, bytes) else value for key, value in metadata.items()}
        return json.dumps(seen).encode()
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    return str(sum(int(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


def slow(request, context):
    ended = watch_end(context)
    ended.wait(float(request))
    return b"done"


def endless(request, context):
    ended = watch_end(context)
    number = 0
    while context.is_active() and not ended.is_set():
        yield str(number).encode()
        number += 1
        time.sleep(0.01)


def fail(request, context):
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="SOLD_OUT", domain="shop", metadata={"item": "lamp"}))
    context.abort_with_status(
        rpc_status.to_status(
            status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="none left – nicht mehr da", details=[detail])
        )
    )


def fail_late(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "after two")


def ending(request, context):
    deadline = time.monotonic() + 5
    name = request.decode()
    while name not in given_up and time.monotonic() < deadline:
        time.sleep(0.01)
    return b"cancelled" if name in given_up else b"goes on"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Ending": grpc.unary_unary_rpc_method_handler(ending),
    "Forbidden": grpc.unary_unary_rpc_method_handler(unary),
}

server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=16),
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Orders", METHODS),))
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
print("listening", flush=True)
server.wait_for_termination()
