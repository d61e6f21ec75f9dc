"""A stand-in for the Hugging Face Hub: a server on the loopback address that keeps repositories as folders.

It speaks as much of the Hub's protocol as `huggingface_hub` needs to create a repository, upload a folder (every file inside
the commit, none through LFS or Xet) and download it again, asks for one token, and can be told to fail. What it cannot show:
large-file uploads, rate limits, and whatever else the real Hub does.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse


USER = "tester"
TOKEN = "hf_standin"


class HubStandIn(ThreadingHTTPServer):
    """
    Serves `root/USER/NAME/` as repositories.

    Attributes:
        url: What HF_ENDPOINT has to be.
        commits: (repository, commit message, paths) in order of arrival.
        private: Whether each repository was created private.
        refused: Paths of requests with a wrong or missing token.
        failing: A predicate of (method, path); requests it accepts are answered with status 403.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.begin(root)

    def begin(self, root: Path) -> None:
        """As after a start, with repositories elsewhere."""
        self.root = Path(root)
        self.commits: list[tuple[str, str, list[str]]] = []
        self.private: dict[str, bool] = {}
        self.refused: list[str] = []
        self.failing = lambda method, path: False

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def files(self, repository: str) -> set[str]:
        folder = self.root / repository
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStandIn

    def log_message(self, *_):
        pass

    def _answer(self, body: bytes | dict, status: int = 200, **headers: str) -> None:
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []  # a commit comes in chunks
        while size := int(self.rfile.readline().strip() or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _is_refused(self, path: str) -> bool:
        if self.server.failing(self.command, path):
            self._answer({"error": "The stand-in was told to refuse this"}, 403)
            return True
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.refused.append(path)
            self._answer({"error": "Invalid username or password."}, 401)
            return True
        return False

    def do_POST(self):
        path, body = urlparse(self.path).path, self._body()
        if self._is_refused(path):
            return None
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            return self._commit(match[1], body)
        return self._answer({"error": f"The stand-in does not know POST {path}"}, 404)

    def _create(self, request: dict) -> None:
        repository = f"{request.get('organization') or USER}/{request['name']}"
        answer = {"url": f"{self.server.url}/{repository}", "name": repository, "id": repository}
        if repository in self.server.private:
            return self._answer({"error": "You already created this model repo", **answer}, 409)
        self.server.private[repository] = request.get("private") or request.get("visibility") == "private"
        (self.server.root / repository).mkdir(parents=True)
        return self._answer(answer)

    def _commit(self, repository: str, body: bytes) -> None:
        message, paths = "", []
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                message = entry["value"]["summary"]
            elif entry["key"] == "file":
                file = self.server.root / repository / entry["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(entry["value"]["content"]))
                paths.append(entry["value"]["path"])
        self.server.commits.append((repository, message, paths))
        commit = hashlib.sha1(body).hexdigest()
        url = f"{self.server.url}/{repository}/commit/{commit}"
        self._answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if self._is_refused(path):
            return None
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": USER, "auth": {"accessToken": {"role": "write"}}})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        if match and match[1] in self.server.private:
            siblings = [{"rfilename": name} for name in sorted(self.server.files(match[1]))]
            information = {"id": match[1], "modelId": match[1], "sha": "0" * 40, "tags": [], "siblings": siblings}
            return self._answer({**information, "private": self.server.private[match[1]]})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            return self._answer({"error": "The stand-in lists no folders"}, 404, X_Error_Code="EntryNotFound")
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = self.server.root / match[1] / match[2]
            if file.is_file():
                content = file.read_bytes()
                tag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self._answer(content, ETag=tag, X_Repo_Commit="0" * 40, Accept_Ranges="bytes")
            return self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        return self._answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET
