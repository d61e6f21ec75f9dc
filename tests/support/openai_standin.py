"""A stand-in for a server of OpenAI's protocol, for what `transformers serve` cannot be made to do.

It refuses keys, is busy, fails, hangs, and sends answers that are none. Its HTTP is real. It knows sums: to `3+4=?` it
answers what the model of `support.evaluation_model` most likely would, and samples nothing.
"""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.evaluation_model import adding_tokenizer, answer


# Of strict servers: what OpenAI's own takes
STANDARD = {
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
}
HANG = "hang"
DROP = "drop"


class ServerStandIn(ThreadingHTTPServer):
    """
    Args:
        models: Its list of models, as names or as whole entries. None: it has no list.
        key: That it wants.
        strict: Refuses token ids and fields that are not OpenAI's.
        fault: Gets the body of each request but the first, which tries the server, and its number, from 1. Returns None, or
            what is answered instead: (status, headers, content), `HANG` or `DROP`.
        listing: What is answered in place of a list of models: (status, headers, content).

    Attributes:
        url: With /v1.
        bodies: Of the requests, in order of arrival, and `times` when they came.
        busiest: Most requests there were at a time.
    """

    daemon_threads = True

    def __init__(self, models=("model",), key=None, strict=False, fault=lambda body, number: None, listing=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = None if models is None else [{"id": m} if isinstance(m, str) else m for m in models]
        self.key, self.strict, self.fault, self.listing = key, strict, fault, listing
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.tokenizer = adding_tokenizer()
        self.bodies, self.times, self.busy, self.busiest = [], [], 0, 0
        self.lock = threading.Lock()
        self.ending = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that went away are meant here

    def complete(self, body) -> dict:
        """What is answered where nothing fails."""
        if "messages" in body:
            text = body["messages"][-1]["content"]
            count = len(self.tokenizer(text)["input_ids"])
        elif isinstance(body["prompt"], str):
            text, count = body["prompt"], len(self.tokenizer(body["prompt"])["input_ids"])
        else:
            text, count = self.tokenizer.decode(body["prompt"]), len(body["prompt"])
        found = re.search(r"(\d+)\+(\d+)=", text)
        said = answer(int(found[1]) + int(found[2]) if found else 0)
        spoken = {"message": {"content": said}} if "messages" in body else {"text": said}
        usage = {"prompt_tokens": count, "completion_tokens": len(self.tokenizer(said)["input_ids"]) + 1}
        return {"choices": [{**spoken, "finish_reason": "stop"}], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: ServerStandIn

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self._refused_key():
            return
        if self.server.listing is not None:
            self._send(*self.server.listing)
        elif self.path == "/v1/models" and self.server.models is not None:
            self._send(200, {"data": self.server.models})
        else:
            self._send(404, {"error": {"message": "Not Found"}})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused_key():
            return
        body = json.loads(content)
        server = self.server
        if server.strict and (set(body) - STANDARD or not isinstance(body.get("prompt", ""), str)):
            self._send(422, {"detail": f"Unexpected fields: {set(body) - STANDARD}"})
            return
        with server.lock:
            server.times.append(time.monotonic())
            server.bodies.append(body)
            number = len(server.bodies) - 1
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            fault = server.fault(body, number) if number else None
            if fault == HANG:
                server.ending.wait(30)
            elif fault == DROP:
                self.connection.close()
            elif fault is not None:
                self._send(*fault)
            else:
                self._send(200, server.complete(body))
        finally:
            with server.lock:
                server.busy -= 1

    def _refused_key(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.server.key is None or given == f"Bearer {self.server.key}":
            return False
        self._send(401, {"error": {"message": f"Incorrect API key provided: {given.removeprefix('Bearer ')}"}})
        return True

    def _send(self, status, headers, content=None):
        if content is None:
            headers, content = {}, headers
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)
