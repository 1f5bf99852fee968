"""What gunicorn serves: it says what it has seen."""

import os


def app(environ, start_response):
    request = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}"
    # In one piece: other threads write too.
    os.write(1, f"seen {request}\n".encode())
    environ["wsgi.input"].read()
    body = f"answer to {request}\n".encode()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]
