"""A stand-in for the dataset endpoints of the Hub on the loopback interface: repository info, file tree, downloads."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


COMMIT = "a" * 40


class DatasetHub:
    """Serves the files under `root` as one dataset repository, whatever its name, and counts the bytes it sends."""

    def __init__(self, root: Path):
        self.root = root
        self.bytes_sent = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlparse(request.path)
        path = unquote(url.path)
        if match := re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/[^/]+/(.*)", path):
            self._send_file(request, self.root / match[1])
        elif match := re.fullmatch(r"/api/datasets/[^/]+/[^/]+/tree/[^/]+(?:/(.*))?", path):
            self._send_tree(request, self.root / (match[1] or ""), parse_qs(url.query))
        elif re.fullmatch(r"/api/datasets/[^/]+/[^/]+(?:/revision/[^/]+)?", path):
            files = [p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()]
            info = {"id": "user/math", "sha": COMMIT, "siblings": [{"rfilename": f} for f in files], "private": False}
            self._send_json(request, info)
        else:
            self._send_json(request, {"error": "Entry not found"}, 404)

    def _send_tree(self, request: BaseHTTPRequestHandler, folder: Path, query: dict) -> None:
        paths = folder.rglob("*") if query.get("recursive", [""])[0].lower() in ("true", "1") else folder.glob("*")
        entries = [
            {"path": p.relative_to(self.root).as_posix(), "oid": "b" * 40}
            | ({"type": "directory"} if p.is_dir() else {"type": "file", "size": p.stat().st_size})
            for p in sorted(paths)
        ]
        self._send_json(request, entries, 200 if entries else 404)

    def _send_file(self, request: BaseHTTPRequestHandler, file: Path) -> None:
        if not file.is_file():
            self._send(request, b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        content, status = file.read_bytes(), 200
        headers = {"ETag": f'"{"d" * 40}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked := re.match(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(request, content, status, headers)

    def _send_json(self, request: BaseHTTPRequestHandler, value: object, status: int = 200) -> None:
        self._send(request, json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, status: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
            self.bytes_sent += len(body)
