"""Python's http.server on the port named. Says what it has seen, as soon as it has read a head."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from socketserver import TCPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    # Of bodies it knows Content-Length alone, as most handlers do.
    def answer(self):
        # In one piece: other threads write too.
        os.write(1, f"seen {self.command} {self.path}\n".encode())
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = f"answer to {self.command} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_CONNECT = do_PRI = answer


class Server(ThreadingHTTPServer):
    address_family = AF_INET6
    daemon_threads = True

    # Without asking the DNS for its own name.
    def server_bind(self):
        TCPServer.server_bind(self)


server = Server(("::", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
