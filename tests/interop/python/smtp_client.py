"""Measures how long the server's greeting takes, then sends a mail. Prints both as JSON."""

import json
import smtplib
import socket
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
milliseconds = []
for _ in range(5):
    start = time.monotonic()
    with socket.create_connection((host, port), timeout=10) as connection:
        greeting = connection.makefile("r").readline()
        milliseconds.append((time.monotonic() - start) * 1000)
        connection.sendall(b"QUIT\r\n")

body = "\r\n".join(["Subject: a mail", ""] + ["x" * 70] * 16_000)
with smtplib.SMTP(host, port, timeout=30) as client:
    client.sendmail("web@shop", ["orders@shop", "payments@shop"], body)
    code, answer = client.noop()

print(json.dumps({"greeting": greeting, "greeting_ms": milliseconds, "accepted": code == 250}))
