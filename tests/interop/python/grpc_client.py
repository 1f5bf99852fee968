"""gRPC client of the interop tests: what it sees through sidecars must be what it would see without."""

import json
import os
import queue
import sys
import unittest

# Nobody answers DNS here: names are in the hosts file, and gRPC's own resolver asks all the same.
os.environ["GRPC_DNS_RESOLVER"] = "native"

import grpc  # noqa: E402
from google.rpc import error_details_pb2
from grpc_status import rpc_status

TARGET = sys.argv.pop(1)
SERVICE = "/interop.Orders/"


class Calls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.channel = grpc.insecure_channel(
            TARGET, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()

    def unary(self, method="Unary"):
        return self.channel.unary_unary(SERVICE + method)

    def stream(self, method):
        return self.channel.unary_stream(SERVICE + method)

    def failure(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return caught.exception

    def test_a_unary_call_is_answered(self):
        self.assertEqual(self.unary()(b"hello", timeout=10), b"hello")

    def test_an_empty_message_is_a_message(self):
        self.assertEqual(self.unary()(b"", timeout=10), b"")

    def test_metadata_goes_both_ways(self):
        sent = (("x-text", "some text"), ("x-raw-bin", b"\x00\x80\xff"))
        answer, call = self.unary().with_call(b"metadata", metadata=sent, timeout=10)
        seen = json.loads(answer)
        self.assertEqual((seen["x-text"], seen["x-raw-bin"]), ("some text", "0080ff"))
        self.assertIn("URI=spiffe://example.org/ns/shop/sa/web", seen["x-forwarded-client-cert"])
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        self.assertEqual((initial["x-initial"], initial["x-binary-bin"]), ("first", b"\x00\xff\x01"))
        self.assertEqual(trailing["x-trailing"], "last")
        self.assertEqual(call.code(), grpc.StatusCode.OK)

    def test_a_server_stream_arrives_whole_and_in_order(self):
        self.assertEqual([int(m) for m in self.stream("Count")(b"1000", timeout=20)], list(range(1000)))

    def test_a_client_stream_arrives_whole(self):
        call = self.channel.stream_unary(SERVICE + "Total")
        self.assertEqual(call((str(n).encode() for n in range(1000)), timeout=20), str(sum(range(1000))).encode())

    def test_a_conversation_is_not_held_back_by_either_side(self):
        conversation = Conversation(self.channel)
        for number in range(50):
            conversation.say(str(number).encode())
            self.assertEqual(conversation.hear(), b"echo " + str(number).encode())
        self.assertEqual(conversation.end(), grpc.StatusCode.OK)

    def test_a_deadline_ends_the_call_on_both_sides(self):
        error = self.failure(lambda: self.unary("Slow")(b"5", timeout=0.3, metadata=(("x-call", "deadline"),)))
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(self.unary("Ending")(b"deadline", timeout=10), b"cancelled")

    def test_cancelling_ends_the_call_on_both_sides(self):
        call = self.stream("Endless")(b"", timeout=30, metadata=(("x-call", "cancel"),))
        self.assertEqual([next(call) for _ in range(3)], [b"0", b"1", b"2"])
        call.cancel()
        self.assertEqual(call.code(), grpc.StatusCode.CANCELLED)
        self.assertEqual(self.unary("Ending")(b"cancel", timeout=10), b"cancelled")

    def test_a_status_comes_with_its_details(self):
        error = self.failure(lambda: self.unary("Fail")(b"", timeout=10))
        self.assertEqual(error.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(error.details(), "none left – nicht mehr da")
        info = error_details_pb2.ErrorInfo()
        [detail] = rpc_status.from_call(error).details
        self.assertTrue(detail.Unpack(info))
        self.assertEqual((info.reason, dict(info.metadata)), ("SOLD_OUT", {"item": "lamp"}))

    def test_messages_before_a_failure_are_not_lost(self):
        call = self.stream("FailLate")(b"", timeout=10)
        self.assertEqual([next(call), next(call)], [b"one", b"two"])
        error = self.failure(lambda: next(call))
        self.assertEqual((error.code(), error.details()), (grpc.StatusCode.DATA_LOSS, "after two"))

    def test_a_method_that_is_not_there_is_the_servers_answer(self):
        error = self.failure(lambda: self.unary("NoSuchThing")(b"", timeout=10))
        self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_messages_of_many_megabytes_go_both_ways(self):
        message = bytes(range(256)) * (16 * 4096)
        self.assertEqual(len(message), 16 * 1024 * 1024)
        self.assertTrue(self.unary()(message, timeout=30) == message)

    def test_compressed_messages_stay_compressed_and_whole(self):
        message = b"many words " * 100_000
        answer = self.unary()(message, timeout=10, compression=grpc.Compression.Gzip)
        self.assertTrue(answer == message)

    def test_hundreds_of_calls_at_once_are_all_answered(self):
        calls = [self.unary().future(str(number).encode(), timeout=30) for number in range(300)]
        self.assertEqual([int(call.result()) for call in calls], list(range(300)))

    def test_a_denied_call_says_permission_denied_and_why(self):
        error = self.failure(lambda: self.unary("Forbidden")(b"", timeout=10))
        self.assertEqual(error.code(), grpc.StatusCode.PERMISSION_DENIED)
        self.assertIn("no-allow-policy-matches", error.details())
        trailing = dict(error.trailing_metadata()) | dict(error.initial_metadata())
        self.assertEqual(trailing.get("x-kith-reason"), "no-allow-policy-matches")

    def test_a_denied_stream_says_permission_denied(self):
        call = self.channel.stream_stream(SERVICE + "Forbidden")
        error = self.failure(lambda: list(call(iter([b"a", b"b"]), timeout=10)))
        self.assertEqual(error.code(), grpc.StatusCode.PERMISSION_DENIED)


class Conversation:
    """A bidirectional stream whose messages are sent one at a time."""

    def __init__(self, channel):
        self.queue = queue.Queue()
        self.call = channel.stream_stream(SERVICE + "Chat")(iter(self.queue.get, None), timeout=30)

    def say(self, message):
        self.queue.put(message)

    def hear(self):
        return next(self.call)

    def end(self):
        self.queue.put(None)
        for _ in self.call:
            pass
        return self.call.code()


if __name__ == "__main__":
    unittest.main()
